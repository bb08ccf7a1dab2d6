/** As useradd(8) gives them. */
const FIRST_ID = 100_000;
export const RANGE_IDS = 65_536;
const MAX_ID = 2 ** 32 - 2;

interface Range {
  owner: string;
  start: number;
  count: number;
}

/** Of subuid(5). Lines that are none are left out. */
function parseRanges(text: string): Range[] {
  return text.split("\n").flatMap((line) => {
    const [, owner = "", start, count] = /^([^:#\s]+):(\d{1,10}):(\d{1,10})\s*$/.exec(line) ?? [];
    return owner === "" ? [] : [{ owner, start: Number(start), count: Number(count) }];
  });
}

/**
 * The line that /etc/subuid or /etc/subgid lacks for this user; undefined when there is one. `files` are both, so that the new
 * range overlaps nobody's in either.
 */
export function missingRange(
  text: string,
  files: readonly string[],
  user: { name: string; uid: number },
): string | undefined {
  const owners = [user.name, String(user.uid)];
  if (parseRanges(text).some(({ owner, count }) => owners.includes(owner) && count >= RANGE_IDS))
    return undefined;
  let start = FIRST_ID;
  const taken = files.flatMap(parseRanges).sort((a, b) => a.start - b.start);
  for (const range of taken) {
    const end = range.start + range.count;
    if (range.start < start + RANGE_IDS && start < end) start = end;
  }
  if (start + RANGE_IDS > MAX_ID) return undefined;
  return `${user.name}:${start}:${RANGE_IDS}`;
}
