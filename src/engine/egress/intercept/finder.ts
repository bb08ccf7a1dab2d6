/** Looks for some texts at once. */
export interface Finder {
  /** The first place from `from` on where one of them is, and the bytes of the longest that is there. */
  next(bytes: Uint8Array, from: number): { at: number; length: number } | undefined;
}

/** So many values of pairs of bytes are told apart: a table of as many steps stays in a processor's first cache. */
const PAIRS = 1 << 13;

/**
 * For texts of at least two bytes. Wu and Manber's way (TR-94-17, University of Arizona): a window as long as the shortest of them is
 * moved over the bytes, as far each time as its last two allow. Most pairs are in no text, so that only one byte of many is
 * looked at.
 */
export function createFinder(texts: readonly Uint8Array[]): Finder {
  const width = Math.min(...texts.map(({ length }) => length));
  if (width < 2) throw new RangeError("a text of fewer than two bytes");
  const steps = new Uint16Array(PAIRS).fill(width - 1);
  /** Those whose first `width` bytes end with a pair, the longest first. */
  const candidates = new Map<number, Uint8Array[]>();
  for (const text of [...texts].sort((a, b) => b.length - a.length)) {
    for (let i = 1; i < width; i++) {
      const pair = pairOf(text[i - 1] as number, text[i] as number);
      const step = width - 1 - i;
      if (step < (steps[pair] as number)) steps[pair] = step;
      if (step === 0) candidates.set(pair, [...(candidates.get(pair) ?? []), text]);
    }
  }
  return {
    next(bytes, from) {
      for (let end = from + width - 1; end < bytes.length; ) {
        const pair = pairOf(bytes[end - 1] as number, bytes[end] as number);
        const step = steps[pair] as number;
        if (step === 0) {
          const at = end - width + 1;
          const found = candidates.get(pair)?.find((text) => isAt(bytes, at, text));
          if (found) return { at, length: found.length };
          end++;
        } else end += step;
      }
      return undefined;
    },
  };
}

function pairOf(one: number, other: number): number {
  return ((one << 5) ^ other) & (PAIRS - 1);
}

function isAt(bytes: Uint8Array, at: number, text: Uint8Array): boolean {
  if (at + text.length > bytes.length) return false;
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text[i]) return false;
  return true;
}
