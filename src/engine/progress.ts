import { stripVTControlCharacters } from "node:util";
import type { ImageProgress } from "../contracts/images.ts";

/** Characters of a line, a layer and a status that are told. */
const MAX_LINE = 4096;
const MAX_WORD = 128;

/** Progress as clients may see it: what a build or a registry says is a stranger's, and may be meant for a terminal. */
export function cleanProgress(progress: ImageProgress): ImageProgress[] {
  if ("line" in progress) {
    return progress.line.split("\n").map((line) => ({ line: clean(overwritten(line), MAX_LINE) }));
  }
  const { layer, status, current, total } = progress;
  return [
    {
      layer: clean(layer, MAX_WORD),
      status: clean(status, MAX_WORD),
      ...(isCount(current) ? { current } : {}),
      ...(isCount(total) ? { total } : {}),
    },
  ];
}

/** What a terminal would show of a line that begins anew at each carriage return. */
function overwritten(line: string): string {
  return line.split("\r").findLast((part) => part !== "") ?? "";
}

function clean(text: string, length: number): string {
  const shown = stripVTControlCharacters(text.slice(0, 4 * length)).replace(/[^\P{Cc}\t]/gu, "");
  // Not in the middle of a character.
  return shown.slice(0, length).replace(/[\ud800-\udbff]$/, "");
}

function isCount(value: number | undefined): value is number {
  return value !== undefined && Number.isSafeInteger(value) && value >= 0;
}
