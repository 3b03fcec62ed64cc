// SPDX-License-Identifier: BSD-3-Clause
//
// What the page of a benchmark report can do where JavaScript runs: sort and filter the table of all cases, keep that
// view in the address so that it can be linked, and choose the colours. The table in the document is all the data.
"use strict";

(() => {
  const VIEW = "#view?"; // before the state in the address: other fragments are places on the page
  const PAUSE = 250; // milliseconds without a key until the address changes: browsers limit how often it may
  const collator = new Intl.Collator("en", { numeric: true });

  // Colours. Memory of the choice is a comfort: a browser may forbid it.

  const remembered = () => {
    try {
      return localStorage.getItem("fastdrop-scheme");
    } catch {
      return null;
    }
  };

  const remember = (scheme) => {
    try {
      localStorage.setItem("fastdrop-scheme", scheme);
    } catch {
      // It holds until the page is left.
    }
  };

  const paint = (scheme) => {
    document.documentElement.dataset.scheme = scheme;
  };

  const startScheme = () => {
    const choices = document.getElementById("scheme");
    const { scheme } = document.documentElement.dataset;
    for (const choice of choices.querySelectorAll("input")) choice.checked = choice.value === scheme;
    choices.addEventListener("change", (event) => {
      paint(event.target.value);
      remember(event.target.value);
    });
    choices.hidden = false;
  };

  // The table

  const textOf = (cell) => (cell.querySelector(".text") ?? cell).textContent;

  const readRow = (element) => {
    const cells = [...element.cells];
    const texts = cells.map(textOf);
    const flags = element.dataset.flags?.split("|") ?? [];
    const values = cells.map((cell) => cell.dataset.value ?? null);
    return { element, texts, values, flags, searched: [...texts, ...flags].join("\n").toLowerCase() };
  };

  // What a column is sorted by, row by row; null where there is nothing. Numbers are also those of a column of texts,
  // such as sizes with a unit, whose values are all numbers.
  const sortKeys = (kind, values) => {
    const numbers = values.map((value) => (value === null || value.trim() === "" ? NaN : Number(value)));
    const areNumbers = values.every((value, at) => value === null || !Number.isNaN(numbers[at]));
    return kind === "number" || areNumbers ? numbers.map((number) => (Number.isNaN(number) ? null : number)) : values;
  };

  const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));

  // From the order of the document, whatever the order was before: the same view is always the same list.
  const sorted = (rows, keys, isDown) =>
    rows
      .map((row, at) => ({ row, key: keys[at] }))
      .sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
        return isDown ? compare(b.key, a.key) : compare(a.key, b.key);
      })
      .map(({ row }) => row);

  const startTable = () => {
    const region = document.getElementById("rows");
    const table = region.querySelector("table");
    const body = table.tBodies[0];
    const form = document.getElementById("controls");
    const rows = [...body.rows].map(readRow);
    const columns = [...table.tHead.rows[0].cells].map((head, at) => {
      const { key, kind } = head.dataset;
      return { key, head, at, keys: sortKeys(kind, rows.map((row) => row.values[at])) };
    });
    let sort = null; // or { column, isDown }
    let waiting;

    // Columns keep the width that all rows need: filters would make them jump.
    const settle = () => {
      table.style.width = "auto";
      const widths = columns.map(({ head }) => head.getBoundingClientRect().width);
      columns.forEach(({ head }, at) => (head.style.minWidth = `${widths[at]}px`));
      table.style.width = "";
    };

    // What has the focus must not hide behind the first column, which stays. Browsers see to the other edge alone.
    const bringForward = ({ target }) => {
      const first = columns[0].head;
      const hidden = first.getBoundingClientRect().right - target.getBoundingClientRect().left;
      if (hidden > 0 && !first.contains(target)) region.scrollLeft -= hidden;
    };

    const addSortButton = (column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...column.head.childNodes);
      button.addEventListener("click", () => {
        sort = { column, isDown: sort?.column === column && !sort.isDown };
        showOrder();
        writeAddress();
      });
      column.head.classList.add("sortable");
      column.head.append(button);
    };

    const addOptions = (column) => {
      const select = form.elements.namedItem(`column.${column.key}`);
      if (select === null) return;
      const texts = new Set(rows.map((row) => row.texts[column.at]));
      for (const text of texts) if (text !== "") select.add(new Option(text, text));
    };

    const showOrder = () => {
      const order = sort === null ? rows : sorted(rows, sort.column.keys, sort.isDown);
      body.append(...order.map((row) => row.element));
      for (const { head } of columns) head.removeAttribute("aria-sort");
      sort?.column.head.setAttribute("aria-sort", sort.isDown ? "descending" : "ascending");
      region.scrollTop = 0;
    };

    const matcher = () => {
      const wanted = new FormData(form);
      const words = wanted.get("find").toLowerCase().split(/\s+/);
      const chosen = columns
        .map(({ key, at }) => ({ at, text: wanted.get(`column.${key}`) }))
        .filter(({ text }) => text);
      return ({ searched, texts, flags }) =>
        words.every((word) => searched.includes(word)) &&
        chosen.every(({ at, text }) => texts[at] === text) &&
        (!wanted.has("peers") || flags.includes("peer wins")) &&
        (!wanted.has("missed") || flags.includes("bound missed")) &&
        (!wanted.has("noisy") || !flags.includes("noisy"));
    };

    const showMatches = () => {
      const matches = matcher();
      let shown = 0;
      for (const row of rows) {
        const isShown = matches(row);
        shown += isShown;
        if (row.element.hidden === isShown) row.element.hidden = !isShown;
      }
      document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
      document.getElementById("none").hidden = shown > 0;
      region.scrollTop = 0;
    };

    // The address

    const writeAddress = () => {
      clearTimeout(waiting);
      const state = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value !== "") state.append(name, value);
      if (sort !== null) state.append("sort", `${sort.isDown ? "-" : ""}${sort.column.key}`);
      const isPlace = !location.hash.startsWith(VIEW) && location.hash !== "";
      const view = `${state}`;
      if (view === "" && isPlace) return;
      try {
        history.replaceState(null, "", view === "" ? location.href.split("#")[0] : VIEW + view);
      } catch {
        // A page inside of another may not be allowed to. The view is there all the same.
      }
    };

    // What is not known is ignored: an address may be old, or damaged.
    const readAddress = () => {
      if (!location.hash.startsWith(VIEW)) return false;
      form.reset();
      sort = null;
      for (const [name, value] of new URLSearchParams(location.hash.slice(VIEW.length))) {
        const control = form.elements.namedItem(name);
        const column = columns.find(({ key }) => key === value.replace(/^-/, ""));
        if (name === "sort" && column) sort = { column, isDown: value.startsWith("-") };
        else if (control instanceof HTMLSelectElement) {
          if ([...control.options].some((option) => option.value === value)) control.value = value;
        } else if (control?.type === "checkbox") control.checked = value === control.value;
        else if (control?.type === "search") control.value = value;
      }
      return true;
    };

    const show = () => {
      showOrder();
      showMatches();
    };

    columns.forEach(addSortButton);
    columns.forEach(addOptions);
    settle();
    table.tHead.addEventListener("focusin", bringForward);
    form.addEventListener("input", () => {
      showMatches();
      clearTimeout(waiting);
      waiting = setTimeout(writeAddress, PAUSE);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelector("button").addEventListener("click", () => {
      form.reset();
      sort = null;
      show();
      writeAddress();
    });
    window.addEventListener("hashchange", () => readAddress() && show());
    form.hidden = false;
    const isLinked = readAddress();
    show();
    if (isLinked) document.getElementById("cases").scrollIntoView();
  };

  // A plot that is wider than its place can be scrolled, by keyboard too; one that is not needs no focus.
  const startPlots = () => {
    const watch = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        if (target.scrollWidth > target.clientWidth) {
          target.tabIndex = 0;
          target.setAttribute("role", "region");
          target.setAttribute("aria-label", target.dataset.label);
        } else for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
      }
    });
    for (const plot of document.querySelectorAll(".plot")) watch.observe(plot);
  };

  const scheme = remembered();
  paint(["light", "dark"].includes(scheme) ? scheme : "auto");
  document.addEventListener("DOMContentLoaded", () => {
    startScheme();
    startTable();
    startPlots();
  });
})();
