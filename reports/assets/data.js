// The samples of the page: an index that is read at once, and chunks of texts that are opened when needed.

const ERROR = 1, TRUNCATED = 2, UNFINISHED = 4, LEAKED = 8;
const RIGHT = 0.5; // scores from here on are shown as right
const KEPT_CHUNKS = 8;
const SLICE_MS = 30; // of searching, before the page may answer to its reader

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

class Samples {
  static async open() {
    return new Samples(await unpacked("index"));
  }

  constructor(index) {
    Object.assign(this, index); // models, tasks, items, rows, starts, pairs
    this.size = this.rows.item.length;
    this.kept = new Map();
    this.ofModel = new Map();
  }

  task(row) {
    return this.items.task[this.rows.item[row]];
  }

  subset(row) {
    return this.items.subset[this.rows.item[row]];
  }

  id(row) {
    return this.items.id[this.rows.item[row]];
  }

  /** Row of each item with a model, -1 where there is none. */
  rowsOf(model) {
    if (!this.ofModel.has(model)) {
      const found = new Int32Array(this.items.id.length).fill(-1);
      for (let row = 0; row < this.size; row++) {
        if (this.rows.model[row] === model) found[this.rows.item[row]] = row;
      }
      this.ofModel.set(model, found);
    }
    return this.ofModel.get(model);
  }

  /** What the index does not hold of a row. */
  async detail(row) {
    const number = this.starts.findLastIndex((start) => start <= row);
    if (!this.kept.has(number)) this.kept.set(number, unpacked(`chunk-${number}`));
    if (this.kept.size > KEPT_CHUNKS) this.kept.delete(this.kept.keys().next().value);
    const chunk = await this.kept.get(number);
    return { beginning: chunk.beginning, ...chunk.rows[row - this.starts[number]] };
  }

  /** Mark the rows whose id, subset or short texts hold a text, ignoring case. */
  searchIndex(needle, matches) {
    const { prediction, target } = this.rows;
    for (let row = 0; row < this.size; row++) {
      const texts = [this.id(row), this.subset(row), prediction[row], target[row]];
      if (texts.some((text) => holds(text, needle))) matches[row] = 1;
    }
  }

  /** Mark the rows whose texts hold a text; tells how far it is, and ends early when told to. */
  async searchTexts(needle, matches, progress) {
    let rested = performance.now();
    for (let number = 0; number < this.starts.length; number++) {
      const chunk = await unpacked(`chunk-${number}`);
      searchChunk(chunk, this.starts[number], needle, matches);
      if (performance.now() - rested < SLICE_MS) continue;
      if (!(await progress((number + 1) / this.starts.length))) return;
      rested = performance.now();
    }
  }
}

function holds(text, needle) {
  return text !== null && text.toLowerCase().includes(needle);
}

function searchChunk(chunk, start, needle, matches) {
  const beginning = chunk.beginning.toLowerCase();
  const everywhere = beginning.includes(needle);
  // A match may lie across the end of what all prompts share.
  const tail = needle.length > 1 ? beginning.slice(1 - needle.length) : "";
  chunk.rows.forEach((row, k) => {
    if (everywhere || [tail + (row.prompt ?? ""), ...texts(row)].some((text) => holds(text, needle))) {
      matches[start + k] = 1;
    }
  });
}

function* texts(row) {
  yield* row.completions ?? [];
  yield* row.reasonings ?? [];
  for (const text of [row.prediction, row.target, row.error]) if (text) yield text;
}
