import { stripVTControlCharacters } from "node:util";

/** Characters of a line that are told; the rest of it is dropped. */
const MAX_LINE = 4096;

/**
 * Output that comes in pieces, as lines without line end and control characters beside tab. What a terminal would have
 * overwritten, and empty lines, are left out.
 */
export function createOutputLines(onLine: (line: string) => void): { push(text: string): void; end(): void } {
  let rest = "";
  let isCut = false;
  const tell = (line: string) => {
    const shown = line.split("\r").findLast((part) => part !== "") ?? "";
    const clean = stripVTControlCharacters(shown).replace(/[^\P{Cc}\t]|[\p{Zl}\p{Zp}\p{Bidi_Control}]/gu, "");
    // Not in the middle of a character.
    const told = clean.slice(0, MAX_LINE).replace(/[\ud800-\udbff]$/, "");
    if (told.trim() !== "") onLine(told);
  };
  const keep = (text: string) => {
    if (isCut) return;
    rest += text;
    // Escape sequences are not told, but there is no end of them.
    if (rest.length <= 4 * MAX_LINE) return;
    rest = rest.slice(0, 4 * MAX_LINE);
    isCut = true;
  };
  const finish = () => {
    tell(rest);
    rest = "";
    isCut = false;
  };
  return {
    push(text) {
      const [first = "", ...others] = text.split("\n");
      keep(first);
      for (const line of others) {
        finish();
        keep(line);
      }
    },
    end: finish,
  };
}
