import { formatDuration } from "../lib/units.ts";

// What comes from a sandbox or a server may try to drive the terminal: escape sequences retitle windows, hide lines
// and answer on stdin; bidirectional overrides make one name look like another. All of these are shown as text:
// control characters (C0, DEL, C1), format characters, and the line and paragraph separators.
const unsafe = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** One line of text that is safe on a terminal, whatever was in it. */
export function safe(text: string): string {
  return text.replace(unsafe, spellOut);
}

/** As `safe`, but line ends stay line ends. */
export function safeLines(text: string): string {
  return text.split("\n").map(safe).join("\n");
}

function spellOut(character: string): string {
  const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[character];
  const code = character.charCodeAt(0);
  return short ?? (code < 0x100 ? `\\x${hex(code, 2)}` : utf16(character));
}

/** JSON for people and programs: what a terminal could take as a command is written as `\uXXXX`. */
export function json(value: unknown): string {
  // Line ends can only be the indentation here: inside strings JSON.stringify has escaped them.
  return JSON.stringify(value, null, 2).replace(unsafe, (character) =>
    character === "\n" ? character : utf16(character),
  );
}

const hex = (code: number, digits: number) => code.toString(16).padStart(digits, "0");
const utf16 = (text: string) =>
  text
    .split("")
    .map((unit) => `\\u${hex(unit.charCodeAt(0), 4)}`)
    .join("");

/** Columns of text, wide enough for their longest cell. Cells are made safe. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [header, ...rows].map((row) => row.map(safe));
  const widths = header.map((_, column) =>
    Math.max(...lines.map((line) => [...(line[column] ?? "")].length)),
  );
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell + " ".repeat(Math.max(0, (widths[column] ?? 0) - [...cell].length)))
        .join("   ")
        .trimEnd(),
    )
    .join("\n");
}

/** The shortest prefixes of at least 8 characters that still tell these ids apart. */
export function shortIds(ids: readonly string[]): string[] {
  const longest = Math.max(8, ...ids.map((id) => id.length));
  for (let length = 8; length < longest; length++) {
    const short = ids.map((id) => id.slice(0, length));
    if (new Set(short).size === new Set(ids).size) {
      return short;
    }
  }
  return [...ids];
}

/** How long ago: `5m`. */
export function age(timestamp: string, now: number): string {
  const then = Date.parse(timestamp);
  return Number.isNaN(then) ? "-" : formatDuration((now - then) / 1000);
}

const codes = { red: 31, green: 32, yellow: 33, bold: 1 } as const;
export type Paint = (colour: keyof typeof codes, text: string) => string;

/** Colours for a descriptor, or none where they are not wanted. */
export function painter(wanted: boolean): Paint {
  return (colour, text) => (wanted ? `\u001b[${codes[colour]}m${text}\u001b[0m` : text);
}
