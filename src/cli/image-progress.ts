import { writeSync } from "node:fs";
import { isatty } from "node:tty";
import { readEnvironment } from "../app/config.ts";
import type { ImageProgress } from "../contracts/images.ts";
import { formatBytes } from "../lib/units.ts";
import { say, writeFully } from "./output.ts";
import { safe } from "./render.ts";
import { type TerminalSize, watchSize } from "./terminal.ts";

/** Tells the person at the keyboard how a pull or a build goes on. */
export interface ProgressDisplay extends AsyncDisposable {
  show(progress: ImageProgress): void;
}

/** On stderr: a region that is drawn anew when it is a terminal, else a line for each thing that is new. */
export function showProgress({ quiet = false } = {}): ProgressDisplay {
  if (quiet) return { show() {}, async [Symbol.asyncDispose]() {} };
  return isatty(2) && process.env.TERM !== "dumb" && !readEnvironment().plain ? inRegion() : asLines();
}

/** Layers by their changes of status, and lines as they come. */
function asLines(): ProgressDisplay {
  const statuses = new Map<string, string>();
  let told = Promise.resolve();
  return {
    show(progress) {
      if (!("line" in progress)) {
        if (statuses.get(progress.layer) === progress.status) return;
        statuses.set(progress.layer, progress.status);
      }
      const line = "line" in progress ? progress.line : `${progress.layer}: ${progress.status}`;
      told = told.then(() => say(shown(line)));
    },
    [Symbol.asyncDispose]: () => told,
  };
}

/** Between two drawings. A terminal is no film. */
const FRAME_MS = 80;
/** What is drawn at most, whatever the terminal's height. */
const MOST_ROWS = 10;
const BAR_WIDTH = 24;

const hideCursor = "\u001b[?25l";
const showCursor = "\u001b[?25h";

function inRegion(): ProgressDisplay {
  const state: RegionState = { layers: new Map(), lines: [] };
  let drawn: string[] = [];
  let timer: NodeJS.Timeout | undefined;
  let writing = Promise.resolve();
  const size = watchSize(() => schedule());
  /** Goes back to where the region began, and takes it away. */
  const erase = () => eraseRows(rowsOf(drawn, size.current().cols));
  // Ended in the middle, as by a second Ctrl-C, the terminal is as it was, too.
  const atExit = () => {
    try {
      writeSync(2, erase() + showCursor);
    } catch {
      // Nobody is there to see it.
    }
  };
  process.once("exit", atExit);

  function schedule(): void {
    timer ??= setTimeout(() => {
      timer = undefined;
      writing = writing.then(draw);
    }, FRAME_MS);
  }

  async function draw(): Promise<void> {
    const next = drawRegion(state, size.current());
    const text = erase() + hideCursor + next.map((line) => `${line}\n`).join("");
    drawn = next;
    await writeFully(2, text).catch(() => {});
  }

  return {
    show(progress) {
      if (!("line" in progress)) state.layers.set(progress.layer, progress);
      else if (progress.line.trim() !== "") {
        state.lines.push(progress.line);
        if (state.lines.length > MOST_ROWS) state.lines.shift();
      }
      schedule();
    },
    async [Symbol.asyncDispose]() {
      clearTimeout(timer);
      size[Symbol.dispose]();
      process.removeListener("exit", atExit);
      await writing;
      await writeFully(2, erase() + showCursor).catch(() => {});
    },
  };
}

export interface RegionState {
  layers: Map<string, Layer>;
  /** The last that a build said. */
  lines: string[];
}
type Layer = Exclude<ImageProgress, { line: string }>;

/** The lines of the region: each fits into a row of the terminal, all of them into its height. */
export function drawRegion({ layers, lines }: RegionState, { cols, rows }: TerminalSize): string[] {
  const most = Math.max(1, Math.min(MOST_ROWS, rows - 2));
  const all = [...layers.values()];
  const open = all.filter((layer) => !isDone(layer));
  const summary = all.length > 0 ? [`${all.length - open.length} of ${all.length} layers done`] : [];
  const bars = open.slice(0, Math.max(0, most - summary.length)).map(bar);
  const told = lines.slice(Math.max(0, lines.length - (most - summary.length - bars.length)));
  return [...summary, ...bars, ...told].slice(0, most).map((line) => cut(shown(line), cols - 1));
}

/** Runtimes have words of their own for it. */
function isDone({ status }: Layer): boolean {
  return /^(done|exists|skipped|complete|pull complete|already exists)\b/i.test(status);
}

function bar({ layer, status, current, total }: Layer): string {
  const name = `${layer.padEnd(12)}  ${status.padEnd(11)}`;
  if (current === undefined) return name;
  if (!total) return `${name}  ${formatBytes(current)}`;
  const full = Math.round(BAR_WIDTH * Math.min(1, current / total));
  return `${name}  [${"#".repeat(full)}${"-".repeat(BAR_WIDTH - full)}]  ${formatBytes(current)} of ${formatBytes(total)}`;
}

/** Rows that these lines take in a terminal that may have become narrower since, and has broken them anew. */
function rowsOf(lines: readonly string[], cols: number): number {
  return lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(widthOf(line) / cols)), 0);
}

function eraseRows(rows: number): string {
  return rows === 0 ? "\r\u001b[J" : `\r\u001b[${rows}A\u001b[J`;
}

/** One row of text that does nothing to the terminal. */
const shown = (line: string) => safe(line.replaceAll("\t", "    "));

/** The beginning of the text that is no wider than `cols`. */
function cut(text: string, cols: number): string {
  let width = 0;
  let fitting = "";
  for (const character of text) {
    width += widthOf(character);
    if (width > cols) break;
    fitting += character;
  }
  return fitting;
}

/** Columns that a terminal gives to the text. Where terminals differ it is the larger number. */
function widthOf(text: string): number {
  let width = 0;
  for (const character of text) {
    if (/\p{M}/u.test(character)) continue;
    width +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Extended_Pictographic}|[\u{1f000}-\u{3fffd}]/u.test(
        character,
      )
        ? 2
        : 1;
  }
  return width;
}
