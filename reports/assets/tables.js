// Tables of the page, made sortable and filterable by Tabulator; their cells are copies of the static ones.

const FEW_ROWS = 8; // a table of so many is not worth a filter

/** `linked` tells whether a cell leads to samples; its first text then becomes a button. */
function upgraded(table, linked = () => false, options = {}) {
  const rows = [...table.tBodies[0].rows].map((row, k) => ({
    id: k,
    text: row.textContent.toLowerCase(),
    ...Object.fromEntries([...row.cells].map((cell, j) => [`c${j}`, cell])),
  }));
  const box = el("div", { className: "grid" });
  table.hidden = true;
  table.after(box);
  const grid = new Tabulator(box, {
    data: rows,
    columns: grouped(table, [...[...table.tHead.rows].at(-1).cells].map((head, j) => column(head, j, linked))),
    layout: "fitDataTable",
    renderVertical: "basic",
    keybindings: false,
    placeholder: () => el("p", {}, "No row matches."),
    ...options,
  });
  if (rows.length > FEW_ROWS) box.before(filterOf(grid));
  return grid;
}

function column(head, j, linked) {
  const numeric = j > 0 && !head.classList.contains("words");
  return {
    title: head.textContent,
    field: `c${j}`,
    titleFormatter: () => el("button", { type: "button", dir: "auto" }, ...copies(head)),
    formatter: (cell) => shownCell(cell.getValue(), linked(cell.getValue())),
    sorter: (a, b) => compareCells(a, b),
    headerSortStartingDir: numeric ? "desc" : "asc",
    hozAlign: numeric ? "right" : "left",
    headerHozAlign: numeric ? "right" : "left",
    ...(j === 0 && { variableHeight: true, maxInitialWidth: Math.max(150, 0.4 * innerWidth) }),
    resizable: false,
  };
}

function shownCell(cell, isLink) {
  const [first, ...rest] = copies(cell);
  if (!isLink) return el("div", { dir: "auto", className: cell.className }, first ?? "", ...rest);
  const button = el("button", { type: "button", className: "link", title: "Show its samples" }, first);
  Object.assign(button.dataset, { task: cell.dataset.task, model: cell.dataset.model });
  return el("div", { dir: "auto", className: cell.className }, button, ...rest);
}

/** Columns below the heads that span several. */
function grouped(table, columns) {
  if (table.tHead.rows.length < 2) return columns;
  const rest = [...columns];
  return [...table.tHead.rows[0].cells].flatMap((head) => {
    const inside = rest.splice(0, head.colSpan);
    if (!head.textContent.trim()) return inside;
    return [{ title: head.textContent, titleFormatter: () => el("bdi", {}, ...copies(head)), columns: inside }];
  });
}

function copies(cell) {
  return [...cell.cloneNode(true).childNodes];
}

function compareCells(a, b) {
  const [x, y] = [a, b].map((cell) => Number.parseFloat(cell.dataset.value));
  if (Number.isNaN(x) && Number.isNaN(y)) return a.textContent.localeCompare(b.textContent);
  return (Number.isNaN(x) ? -Infinity : x) - (Number.isNaN(y) ? -Infinity : y);
}

function filterOf(grid) {
  const input = el("input", { type: "search", placeholder: "Filter rows", ariaLabel: "Filter the rows of this table" });
  input.oninput = () => {
    const needle = input.value.toLowerCase();
    grid.setFilter((row) => row.text.includes(needle));
  };
  return el("p", { className: "filter" }, input);
}
