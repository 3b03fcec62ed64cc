# SPDX-License-Identifier: BSD-3-Clause
"""What is tested on four devices, in a process of its own, because JAX counts the CPU's once, when it starts.

``python jax_shards.py`` prints what went wrong in each case, as JSON.
"""

import functools
import json
import traceback

import numpy as np
import pytest
from jax_helpers import NAMES, RATE, assert_same, defined, defined_gradient, fj, jax, key_of, normals

P = jax.sharding.PartitionSpec
NamedSharding = jax.sharding.NamedSharding

AMOUNTS = {name: "stddev" if name == "gaussian_noise" else "rate" for name in NAMES}
CASES = {}
SHAPE = (8, 12, 6)
# The mesh, the spec of x, and a noise_shape of its blocks.
CUTS = [
    ((4,), ("d",), P("d")),
    ((4,), ("d",), P(None, "d")),
    ((2, 2), ("d", "m"), P("d", "m")),
    ((2, 2), ("d", "m"), P(("d", "m"))),
    ((2, 2), ("d", "m"), P(("m", "d"))),
    ((2, 2), ("d", "m"), P(None, ("m", "d"))),
    ((2, 2), ("d", "m"), P("m", None, "d")),
    ((2, 2), ("d", "m"), P(None, None, "m")),
    ((2, 2), ("d", "m"), P()),
    ((2, 2), ("d", "m"), P(None, ())),
]


def case(function):
    CASES[function.__name__] = function
    return function


def mesh_of(lengths, names):
    return jax.make_mesh(lengths, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))


def sharded(function, mesh, spec, check_vma=True):
    """A function of a key and x, of which each device has its block."""
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), spec), out_specs=spec, check_vma=check_vma))


@case
def blocks_take_their_parts_of_one_mask():
    x = normals(*SHAPE)
    for lengths, names, spec in CUTS:
        for check_vma in (True, False):
            f = sharded(functools.partial(fj.dropout, rate=RATE, spec=spec), mesh_of(lengths, names), spec, check_vma)
            assert_same(f(key_of(1), x), defined("dropout", key_of(1), x))


@case
def so_do_the_other_functions():
    x = normals(*SHAPE)
    for name in NAMES:
        function = functools.partial(getattr(fj, name), **{AMOUNTS[name]: RATE}, spec=P("d", "m"))
        f = sharded(function, mesh_of((2, 2), ("d", "m")), P("d", "m"))
        assert_same(f(key_of(1), x), defined(name, key_of(1), x))


@case
def shared_decisions_are_shared_by_blocks():
    x = normals(*SHAPE)
    for lengths, names, spec in CUTS[1::2]:
        for given, whole in (
            ((None, 1, None), (8, 1, 6)),
            ((1, None, 1), (1, 12, 1)),
            ((1, 1, None), (1, 1, 6)),
            ((None,), (1, 1, 6)),
            ((1, 1, 1), (1, 1, 1)),
        ):
            function = functools.partial(fj.dropout, rate=RATE, spec=spec, noise_shape=given)
            f = sharded(function, mesh_of(lengths, names), spec)
            assert_same(f(key_of(1), x), defined("dropout", key_of(1), x, RATE, whole))


@case
def lengths_of_a_noise_shape_are_those_of_a_block():
    x, mesh = normals(*SHAPE), mesh_of((4,), ("d",))
    f = sharded(functools.partial(fj.dropout, rate=RATE, spec=P("d"), noise_shape=(2, 1, 6)), mesh, P("d"))
    assert_same(f(key_of(1), x), defined("dropout", key_of(1), x, RATE, (8, 1, 6)))
    one_row = normals(4, 6)  # a row for each block, in which 1 means shared, and None the row's own
    for given, whole in (((1, None), (1, 6)), ((None, None), None)):
        function = functools.partial(fj.dropout, rate=RATE, spec=P("d"), noise_shape=given)
        assert_same(
            sharded(function, mesh, P("d"))(key_of(1), one_row), defined("dropout", key_of(1), one_row, RATE, whole)
        )
    no_block = functools.partial(fj.dropout, rate=RATE, spec=P("d"), noise_shape=(3, 1, 6))
    with pytest.raises(ValueError, match="noise_shape must hold 1 or None or the array's own length"):
        sharded(no_block, mesh, P("d"))(key_of(1), x)


@case
def gradients_take_the_same_parts():
    x, dy = normals(*SHAPE), normals(*SHAPE, seed=1)
    for lengths, names, spec in CUTS[:3]:
        for name in NAMES:
            for check_vma in (True, False):
                function = functools.partial(getattr(fj, name), **{AMOUNTS[name]: RATE}, spec=spec)
                f = sharded(function, mesh_of(lengths, names), spec, check_vma)
                gradient = jax.jit(lambda x, f=f: jax.vjp(functools.partial(f, key_of(1)), x)[1](dy)[0])(x)
                assert_same(gradient, defined_gradient(name, key_of(1), dy))


@case
def gradients_of_what_all_devices_hold_are_summed():
    x = normals(2, 12)
    mesh = mesh_of((4,), ("d",))
    f = jax.shard_map(
        lambda key, x: fj.dropout(key, x, RATE, spec=P("d")), mesh=mesh, in_specs=(P(), P()), out_specs=P("d")
    )
    four = np.concatenate([np.asarray(x)] * 4)
    assert_same(jax.jit(f)(key_of(1), x), defined("dropout", key_of(1), four))
    gradient = jax.jit(jax.grad(lambda x: f(key_of(1), x).sum()))(x)
    expected = defined_gradient("dropout", key_of(1), np.ones((8, 12), np.float32)).reshape(4, 2, 12).sum(0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)  # summed in another order


@case
def without_a_spec_a_block_is_a_whole():
    x, mesh = normals(8, 50), mesh_of((4,), ("d",))
    y = sharded(lambda key, x: fj.dropout(key, x, RATE), mesh, P("d"))(key_of(1), x)
    for block in range(4):
        rows = slice(2 * block, 2 * block + 2)
        assert_same(y[rows], defined("dropout", key_of(1), x[rows]))

    def own_key(key, x):
        return fj.dropout(jax.random.fold_in(key, jax.lax.axis_index("d")), x, RATE)

    y = sharded(own_key, mesh, P("d"))(key_of(1), x)
    for block in range(4):
        rows = slice(2 * block, 2 * block + 2)
        assert_same(y[rows], defined("dropout", jax.random.fold_in(key_of(1), block), x[rows]))


@case
def in_batches_too():
    x, mesh = normals(3, 8, 50), mesh_of((4,), ("d",))
    keys = jax.random.split(key_of(1), 3)
    f = jax.shard_map(
        lambda key, x: fj.dropout(key, x, RATE, spec=P("d")), mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d")
    )
    outside = jax.jit(jax.vmap(f))(keys, x)
    inside = jax.jit(
        jax.shard_map(
            jax.vmap(lambda key, x: fj.dropout(key, x, RATE, spec=P("d"))),
            mesh=mesh,
            in_specs=(P(), P(None, "d")),
            out_specs=P(None, "d"),
        )
    )(keys, x)
    for i in range(3):
        assert_same(outside[i], defined("dropout", keys[i], x[i]))
        assert_same(inside[i], defined("dropout", keys[i], x[i]))
    one_key = jax.jit(jax.vmap(f, in_axes=(None, 0)))(key_of(2), x)
    for i in range(3):
        assert_same(one_key[i], defined("dropout", key_of(2), x[i]))


@case
def the_axis_of_a_vmap_is_an_axis_too():
    x = normals(4, 2, 12)
    y = jax.vmap(lambda x: fj.dropout(key_of(1), x, RATE, spec=P("v")), axis_name="v")(x)
    assert_same(y.reshape(8, 12), defined("dropout", key_of(1), x.reshape(8, 12)))


@case
def under_jit_alone_the_mask_is_that_of_the_whole():
    x, mesh = normals(*SHAPE), mesh_of((2, 2), ("d", "m"))
    placed = jax.device_put(x, NamedSharding(mesh, P("d", "m")))
    for f in (lambda x: fj.dropout(key_of(1), x, RATE), jax.jit(lambda x: fj.dropout(key_of(1), x, RATE))):
        assert_same(f(placed), defined("dropout", key_of(1), x))
    gradient = jax.jit(jax.grad(lambda x: fj.dropout(key_of(1), x, RATE).sum()))(placed)
    assert_same(gradient, defined_gradient("dropout", key_of(1), np.ones(SHAPE, np.float32)))


@case
def training_on_four_devices_is_training_on_one():
    mesh = mesh_of((4,), ("d",))
    x, target = normals(64, 20), normals(64, 1, seed=1)
    weights = [normals(20, 32, seed=2) / 5, normals(32, 1, seed=3) / 6]

    def loss(weights, key, x, target, spec=None):
        h = fj.dropout(key, jax.nn.relu(x @ weights[0]), 0.5, spec=spec)
        return ((h @ weights[1] - target) ** 2).mean()

    def shared_loss(weights, key, x, target):
        return jax.lax.pmean(loss(weights, key, x, target, P("d")), "d")

    on_four = jax.shard_map(shared_loss, mesh=mesh, in_specs=(P(), P(), P("d"), P("d")), out_specs=P())
    ends = []
    for objective in (loss, on_four):
        now = weights
        step = jax.jit(jax.grad(objective))
        for i in range(10):
            gradients = step(now, key_of(i), x, target)
            now = [w - 0.1 * g for w, g in zip(now, gradients, strict=True)]
        ends.append(now)
    for one, four in zip(*ends, strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-5, atol=1e-6)  # sums in another order
        assert np.abs(np.asarray(one)).max() > 0.1


def main():
    jax.config.update("jax_num_cpu_devices", 4)
    found = {}
    for name, function in CASES.items():
        try:
            function()
        except Exception:
            found[name] = traceback.format_exc()
        else:
            found[name] = ""
    print(json.dumps(found))


if __name__ == "__main__":
    main()
