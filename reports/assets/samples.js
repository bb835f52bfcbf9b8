// The list of samples: filters over the index, one page of rows at a time.

const PAGE_ROWS = 25;
const TYPING_MS = 150;

const SHOW = {
  all: () => true,
  wrong: (rows, row) => rows.correct[row] !== null && rows.correct[row] < RIGHT,
  right: (rows, row) => rows.correct[row] !== null && rows.correct[row] >= RIGHT,
  errors: (rows, row) => rows.flags[row] & ERROR,
  truncated: (rows, row) => rows.flags[row] & TRUNCATED,
  unfinished: (rows, row) => rows.flags[row] & UNFINISHED,
  leaked: (rows, row) => rows.flags[row] & LEAKED,
};

const VERSUS = {
  different: (a, b) => a !== b,
  "only-a": (a, b) => a > b,
  "only-b": (a, b) => b > a,
  "both-right": (a, b) => a === b && a >= RIGHT,
  "both-wrong": (a, b) => a === b && a < RIGHT,
};

function sampleBrowser(samples, root) {
  const form = root.querySelector("form");
  const fields = form.elements;
  const status = root.querySelector("[role=status]");
  const meter = root.querySelector("progress");
  let selected = [];
  let matches = null; // of the search, null without one
  let searches = 0;

  fillChoices(samples, fields);
  const list = sampleList(samples, root.querySelector(".list"), () => selected);
  const dialog = sampleDialog(samples, document.querySelector("dialog"), async (row, by) => {
    const place = selected.indexOf(row) + by;
    if (place < 0 || place >= selected.length) return null;
    await list.reveal(place);
    return selected[place];
  });
  list.onOpen(dialog.open);
  document.querySelector("dialog").onclose = list.focusCurrent;

  const refresh = async (page = 1) => {
    selected = filtered(samples, fields, matches);
    status.textContent = `${selected.length.toLocaleString("en")} of ${samples.size.toLocaleString("en")} samples`;
    await list.setPage(page);
  };

  const search = async () => {
    const mine = ++searches;
    const needle = fields.query.value.toLowerCase();
    matches = needle ? new Uint8Array(samples.size) : null;
    meter.hidden = !needle;
    if (!needle) return refresh();
    samples.searchIndex(needle, matches);
    await refresh();
    let shown = performance.now();
    await samples.searchTexts(needle, matches, async (done) => {
      await new Promise((resume) => setTimeout(resume));
      if (mine !== searches) return false;
      meter.value = done;
      if (performance.now() - shown > 500) {
        await refresh(list.page());
        shown = performance.now();
      }
      return mine === searches;
    });
    if (mine !== searches) return;
    meter.hidden = true;
    await refresh(list.page());
  };

  let typing;
  fields.query.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(search, TYPING_MS);
  };
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) => {
    if (event.target === fields.query) return;
    if (event.target === fields.task) fillSubsets(samples, fields);
    agree(fields, samples.models.length, event.target);
    refresh();
  };
  /** Set every field, those not named to what they are at first. */
  const choose = ({ model = "", versus = "", task = "", subset = "", kind = "different" }) => {
    const set = (values) => Object.entries(values).forEach(([name, value]) => fields[name] && (fields[name].value = value));
    set({ query: "", show: "all", model, task, versus, kind });
    fillSubsets(samples, fields);
    set({ subset });
    agree(fields, samples.models.length);
    return search();
  };
  fields.reset.onclick = () => choose({});
  const show = (values) => {
    choose(values);
    root.scrollIntoView();
    status.focus({ preventScroll: true });
  };
  agree(fields, samples.models.length);
  return { ready: list.ready.then(() => refresh()), show, focusSearch: () => fields.query.focus() };
}

function fillChoices(samples, fields) {
  samples.models.forEach((name, k) => {
    fields.model.append(el("option", { value: k }, oneLine(name)));
    fields.versus?.append(el("option", { value: k }, oneLine(name)));
  });
  samples.tasks.forEach((name, k) => fields.task.append(el("option", { value: k }, oneLine(name))));
  fillSubsets(samples, fields);
}

function fillSubsets(samples, fields) {
  const { task, subset } = samples.items;
  const chosen = fields.task.value;
  const names = new Set(chosen === "" ? [] : subset.filter((_, k) => task[k] === Number(chosen)));
  const options = [...names].map((name) => el("option", { value: name }, oneLine(name)));
  fields.subset.replaceChildren(el("option", { value: "" }, "All subsets"), ...options);
  fields.subset.disabled = names.size < 2;
}

/** A comparison is of two different models: choose the missing one. */
function agree(fields, nModels, changed = fields.versus) {
  if (!fields.versus) return;
  fields.kind.disabled = fields.versus.value === "";
  if (fields.versus.value === "" || (fields.model.value !== "" && fields.model.value !== fields.versus.value)) return;
  const [kept, other] = changed === fields.model ? [fields.model, fields.versus] : [fields.versus, fields.model];
  if (kept.value === "") other.value = "";
  else other.value = (Number(kept.value) + 1) % nModels;
  fields.kind.disabled = fields.versus.value === "";
}

function filtered(samples, fields, matches) {
  const { rows, items } = samples;
  const chosen = (field) => (field && field.value !== "" ? Number(field.value) : -1);
  const [model, task, versus] = [fields.model, fields.task, fields.versus].map(chosen);
  const subset = fields.subset.value;
  const shows = SHOW[fields.show.value];
  const partners = versus < 0 ? null : samples.rowsOf(versus);
  const relation = VERSUS[fields.kind?.value];
  const found = [];
  for (let row = 0; row < samples.size; row++) {
    const item = rows.item[row];
    if (matches && !matches[row]) continue;
    if (model >= 0 && rows.model[row] !== model) continue;
    if (task >= 0 && items.task[item] !== task) continue;
    if (subset && items.subset[item] !== subset) continue;
    if (!shows(rows, row)) continue;
    if (partners) {
      const other = partners[item] < 0 ? null : rows.correct[partners[item]];
      if (other === null || rows.correct[row] === null || !relation(rows.correct[row], other)) continue;
    }
    found.push(row);
  }
  return found;
}

// -- the list ----------------------------------------------------------------------------------

function sampleList(samples, box, selected) {
  let opened = () => {};
  const table = new Tabulator(box, {
    ajaxURL: "index",
    ajaxRequestFunc: async (url, config, { page, size, sort }) => {
      sortRows(samples, selected(), sort);
      const found = selected().slice((page - 1) * size, page * size);
      return { last_page: Math.max(1, Math.ceil(selected().length / size)), data: found.map((row) => entry(samples, row)) };
    },
    columns: sampleColumns(samples),
    layout: "fitDataTable",
    responsiveLayout: "hide",
    renderVertical: "basic",
    pagination: true,
    paginationMode: "remote",
    paginationSize: PAGE_ROWS,
    paginationButtonCount: 3,
    sortMode: "remote",
    dataLoader: false,
    keybindings: false,
    placeholder: () => el("p", {}, "No sample matches."),
    rowFormatter: (row) => {
      const node = row.getElement();
      node.tabIndex = row.getPosition() === 1 ? 0 : -1;
      node.ariaLabel = `Sample ${oneLine(row.getData().id)}: Enter opens it`;
    },
  });
  const ready = new Promise((resolve) => table.on("tableBuilt", resolve));
  table.on("rowClick", (event, row) => opened(row.getData().row));

  const focus = (node) => {
    box.querySelectorAll(".tabulator-row[tabindex='0']").forEach((other) => (other.tabIndex = -1));
    node.tabIndex = 0;
    node.focus();
  };
  const rows = () => table.getRows().map((row) => row.getElement());
  // One after the other: the table drops what it is asked for while it waits for rows.
  let turning = Promise.resolve();
  const setPage = (page) => (turning = turning.then(() => table.setPage(page)));
  const turn = async (by) => {
    const page = table.getPage() + by;
    if (page < 1 || page > table.getPageMax()) return;
    await setPage(page);
    focus(by > 0 ? rows()[0] : rows().at(-1));
  };
  box.addEventListener("keydown", async (event) => {
    const row = event.target.closest(".tabulator-row");
    if (!row) return;
    const place = rows().indexOf(row);
    const moves = {
      ArrowDown: () => (rows()[place + 1] ? focus(rows()[place + 1]) : turn(1)),
      ArrowUp: () => (rows()[place - 1] ? focus(rows()[place - 1]) : turn(-1)),
      PageDown: () => turn(1),
      PageUp: () => turn(-1),
      Home: () => focus(rows()[0]),
      End: () => focus(rows().at(-1)),
      Enter: () => opened(table.getRows()[place].getData().row),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
  return {
    ready,
    setPage,
    page: () => table.getPage() || 1,
    onOpen: (open) => (opened = open),
    /** Turn to the page of a place in the list and put the focus there, for when the sample is closed. */
    reveal: async (place) => {
      const page = 1 + Math.floor(place / PAGE_ROWS);
      if (page !== table.getPage()) await setPage(page);
      rows().forEach((node, k) => (node.tabIndex = k === place % PAGE_ROWS ? 0 : -1));
    },
    focusCurrent: () => box.querySelector(".tabulator-row[tabindex='0']")?.focus(),
  };
}

function entry(samples, row) {
  return {
    row,
    model: samples.models[samples.rows.model[row]],
    task: samples.tasks[samples.task(row)],
    subset: samples.subset(row),
    id: samples.id(row),
    prediction: samples.rows.prediction[row],
    target: samples.rows.target[row],
  };
}

function sampleColumns(samples) {
  const text = (cell) => bdi(cell.getValue() ?? "–");
  // Where there is no room for all, columns with the highest rank go first; the detail view has everything.
  const column = (title, field, rank, width, formatter = text) => ({
    title,
    field,
    formatter,
    width,
    responsive: rank,
    titleFormatter: () => el("button", { type: "button" }, title),
    resizable: false,
  });
  return [
    ...(samples.models.length > 1 ? [column("Model", "model", 3, 150)] : []),
    column("Task", "task", 4, 230),
    column("Subset", "subset", 2, 190),
    column("Id", "id", 0, 110),
    column("Score", "correct", 0, 90, (cell) => mark(samples.rows, cell.getData().row)),
    column("Prediction", "prediction", 0, 170),
    column("Target", "target", 1, 170),
    column("Flags", "flags", 5, 150, (cell) => flagsOf(samples.rows.flags[cell.getData().row])),
  ];
}

function flagsOf(flags) {
  const names = [[TRUNCATED, "truncated"], [UNFINISHED, "unfinished"], [LEAKED, "leak evidence"]];
  return el("span", {}, ...names.filter(([flag]) => flags & flag).map(([, name]) => badge("none", name)));
}

const KEYS = {
  model: (samples, row) => samples.rows.model[row],
  task: (samples, row) => samples.task(row),
  subset: (samples, row) => samples.subset(row),
  id: (samples, row) => Number.isNaN(Number(samples.id(row))) ? samples.id(row) : Number(samples.id(row)),
  correct: (samples, row) => samples.rows.correct[row] ?? -1,
  prediction: (samples, row) => samples.rows.prediction[row] ?? "",
  target: (samples, row) => samples.rows.target[row] ?? "",
  flags: (samples, row) => samples.rows.flags[row],
};

/** Sort rows in place; without a wish, by place in the runs. */
function sortRows(samples, rows, sort) {
  rows.sort((a, b) => a - b);
  for (const { field, dir } of sort ?? []) {
    const sign = dir === "desc" ? -1 : 1;
    const keys = new Map(rows.map((row) => [row, KEYS[field](samples, row)]));
    rows.sort((a, b) => sign * compare(keys.get(a), keys.get(b)));
  }
}

function compare(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}
