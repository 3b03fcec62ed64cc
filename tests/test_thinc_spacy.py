# SPDX-License-Identifier: BSD-3-Clause
"""spaCy's pipelines train with fastdrop's dropout, from a config or by a call, and load where there is no fastdrop."""

import json

import numpy as np
import pytest
from peers import MISSING_PEERS, imported
from thinc_helpers import ft, installed, keys_of, mask_of, run, thinc

if "spacy" in MISSING_PEERS:
    pytest.skip(f"spacy: {MISSING_PEERS['spacy']}", allow_module_level=True)

spacy = imported("spacy")
parser_model = imported("spacy.ml.parser_model")
Example = imported("spacy.training").Example

pytestmark = pytest.mark.filterwarnings("ignore")  # of spaCy, that 40 words are few

# A pipeline whose components share a Tok2Vec, and a corpus of its own.
PIPELINE = """
import json, sys
import numpy as np
import spacy
from pathlib import Path
from spacy.cli.train import train
from spacy.tokens import Doc, DocBin
from thinc.api import NumpyOps, get_current_ops, set_current_ops

folder = Path(sys.argv[1])
WIDTH = {"width": 16}
TOK2VEC = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "depth": 2, "embed_size": 200,
           "window_size": 1, "maxout_pieces": 2, "subword_features": True, **WIDTH}
LISTENER = {"@architectures": "spacy.Tok2VecListener.v1", **WIDTH}


def config(callbacks):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}})
    nlp.add_pipe("textcat")
    config = nlp.config.copy()
    config["training"] |= {"max_steps": 4, "eval_frequency": 4, "dropout": 0.25, "score_weights": {"tag_acc": 1.0}}
    for (section, name), callback in callbacks.items():
        config[section][name] = {"@callbacks": callback}
    return config


def corpus(path):
    docs = DocBin()
    random = np.random.default_rng(0)
    for number in range(20):
        words = random.choice("the cat sat on a mat dog".split(), random.integers(3, 12)).tolist()
        doc = Doc(spacy.blank("en").vocab, words=words, tags=["N" if len(word) == 3 else "X" for word in words])
        doc.cats = {"A": float("cat" in words), "B": float("cat" not in words)}
        docs.add(doc)
    docs.to_disk(path)


corpus(folder / "corpus.spacy")
AFTER, BEFORE = ("initialize", "after_init"), ("nlp", "before_creation")
LAYERS, OPS = "fastdrop.replace_dropout.v1", "fastdrop.set_current_ops.v1"
found = {}
for name, callbacks in {
    "thinc": {}, "layers": {AFTER: LAYERS}, "ops": {BEFORE: OPS}, "both": {AFTER: LAYERS, BEFORE: OPS},
    "after pipeline": {("nlp", "after_pipeline_creation"): LAYERS},
}.items():
    set_current_ops(NumpyOps())
    config(callbacks).to_disk(folder / f"{name}.cfg")
    paths = {"paths.train": str(folder / "corpus.spacy"), "paths.dev": str(folder / "corpus.spacy")}
    train(folder / f"{name}.cfg", folder / name, overrides=paths)
    ops = get_current_ops().name
    nlp = spacy.load(folder / name / "model-last")
    outputs = [nlp.get_pipe(pipe).model.predict([nlp.make_doc("the cat sat")]) for pipe in ("tok2vec", "textcat")]
    found[name] = [ops, np.concatenate([np.ravel(output) for output in outputs]).tolist()]
print(json.dumps(found))
"""

WITHOUT_FASTDROP = """
import json, sys
from importlib.metadata import MetadataPathFinder

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "fastdrop":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
find = MetadataPathFinder.find_distributions
MetadataPathFinder.find_distributions = lambda *context: (d for d in find(*context) if d.name != "fastdrop")
import spacy

found = {}
for name, options in json.loads(sys.argv[2]).items():
    try:
        nlp = spacy.load(f"{sys.argv[1]}/{name}/model-last", **options)
    except Exception as error:
        found[name] = str(error)
    else:
        nlp.update([spacy.training.Example.from_dict(nlp.make_doc("the cat"), {"tags": ["N", "N"]})], drop=0.5)
        found[name] = [token.tag_ for token in nlp("the cat sat")]
print(json.dumps(found))
"""


def printed(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """What nets answer that were trained from configs: those that say nothing of fastdrop, or one thing or another."""
    return printed(run(PIPELINE, installed(tmp_path_factory.mktemp("installed")), arguments=[folder]))


def test_a_config_asks_for_layers_or_ops_and_both_train_the_same_net(trained):
    assert {name: ops for name, (ops, _) in trained.items()} == {
        "thinc": "numpy",
        "layers": "numpy",
        "ops": "fastdrop",
        "both": "fastdrop",
        "after pipeline": "numpy",
    }
    expected = trained["layers"][1]
    assert np.any(expected)
    assert trained["ops"][1] == trained["both"][1] == trained["after pipeline"][1] == expected
    assert trained["thinc"][1] != expected


def test_what_is_saved_loads_without_fastdrop_unless_the_config_wants_it_there(trained, folder):
    without = {"config": {"nlp": {"before_creation": None, "after_pipeline_creation": None}}}
    options = {"thinc": {}, "layers": {}, "ops": {}, "both": without, "after pipeline": without}
    found = printed(run(WITHOUT_FASTDROP, arguments=[folder, json.dumps(options)]))
    assert "Could not find function 'fastdrop.set_current_ops.v1'" in found.pop("ops")
    assert found == dict.fromkeys(options.keys() - {"ops"}, found["thinc"])
    assert len(found["thinc"]) == 3


# Pipelines that are there already

NAMES = ["tok2vec", "tagger", "textcat", "ner"]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]


def examples(nlp):
    annotations = {
        "tags": ["A", "B", "B", "C", "D", "E", "A", "B", "C"],
        "entities": ["O", "O", "O", "U-X", "O", "O", "O", "O", "U-X"],
        "cats": {"P": 1.0, "N": 0.0},
    }
    return [Example.from_dict(nlp.make_doc(" ".join(WORDS)), annotations) for _ in range(4)]


def pipeline():
    thinc.fix_random_seed(0)
    nlp = spacy.blank("en")
    for name in NAMES:
        nlp.add_pipe(name)
    nlp.initialize(lambda: examples(nlp))
    return nlp


@pytest.fixture(scope="module")
def nlp():
    return pipeline()


def test_each_component_has_its_dropout_replaced_also_one_that_is_disabled():
    nlp = pipeline()
    with nlp.select_pipes(disable=["tagger"]):
        changed = ft.replace_dropout(nlp)
    layers = {id(node): node for _, component in nlp.components for node in component.model.walk()}
    ours = [node for node in layers.values() if node._func is ft.forward]
    asking = [node for node in layers.values() if type(node.ops) is ft.FastdropOps]
    assert not [node for node in layers.values() if node._func is thinc.registry.layers.get("Dropout.v1")()._func]
    assert {node.name for node in ours} == {"dropout"}
    assert {node.name for node in asking} == {"hashembed", "precomputable_affine"}
    assert len(ours) > 4
    assert changed == len(ours) + len(asking)
    assert ft.replace_dropout(nlp) == 0


def test_the_rate_of_an_update_is_the_rate_that_is_dropped_at(monkeypatch):
    nlp = pipeline()
    ft.replace_dropout(nlp)
    rates = []
    next_mask = ft._next_mask
    monkeypatch.setattr(ft, "_next_mask", lambda shape, rate: rates.append(rate.rate) or next_mask(shape, rate))
    for drop in (0.0, 0.25, 0.5):
        nlp.update(examples(nlp), drop=drop)
        assert set(rates) == ({drop} if drop else set())
        rates.clear()
    nlp.evaluate(examples(nlp))
    nlp(" ".join(WORDS))
    assert rates == []


@pytest.mark.parametrize("rate", [None, 0.0, 0.5])
def test_static_vectors_ask_our_ops_for_their_mask(rate, nlp):
    for word in set(WORDS):
        nlp.vocab.set_vector(word, np.random.default_rng(len(word)).standard_normal(6).astype("f"))
    model = imported("spacy.ml.staticvectors").StaticVectors(8, 6, dropout=rate)
    model.initialize()
    assert ft.replace_dropout(model) == 1
    docs = [nlp.make_doc(" ".join(WORDS))]
    (key,) = keys_of(3)
    Y, _ = model(docs, is_train=True)
    mask = mask_of((8,), rate, key) if rate else np.ones(8, np.float32)
    np.testing.assert_array_equal(Y.data, model.predict(docs).data * mask, strict=True)


def test_the_hidden_layer_of_parsers_is_spacys_own_unless_its_ops_are_exchanged(monkeypatch):
    """At 0.1, whatever the rate: it is neither a layer nor asks the ops of one."""
    nlp = pipeline()
    ft.replace_dropout(nlp)
    monkeypatch.setattr(parser_model, "NUMPY_OPS", thinc.NumpyOps())
    of_thinc, ours = [], []
    own, next_mask = thinc.Ops.get_dropout_mask, ft._next_mask
    monkeypatch.setattr(thinc.Ops, "get_dropout_mask", lambda *given: of_thinc.append(given[2]) or own(*given))
    monkeypatch.setattr(ft, "_next_mask", lambda shape, rate: ours.append(rate.rate) or next_mask(shape, rate))
    nlp.update(examples(nlp), drop=0.5)
    assert set(of_thinc) == {0.1}
    assert set(ours) == {0.5}
    of_thinc.clear()
    monkeypatch.setattr(parser_model, "NUMPY_OPS", ft.FastdropOps())
    nlp.update(examples(nlp), drop=0.5)
    assert of_thinc == []
    assert set(ours) == {0.1, 0.5}
