/** Names below one that are told as `*.name`, from so many on. */
const FEW = 2;

/**
 * Rules with several names below one name as one rule for all below it, for the same ports. Not below a name of one label, nor
 * below what looks like a registry's (`co.uk`): that would allow strangers' hosts too.
 */
export function collapse(rules: readonly string[]): string[] {
  const parents = new Map<string, string[]>();
  for (const rule of rules) {
    const parent = parentOf(rule);
    if (parent !== undefined) parents.set(parent, [...(parents.get(parent) ?? []), rule]);
  }
  const collapsed = [...parents].filter(([, below]) => below.length >= FEW);
  const gone = new Set(collapsed.flatMap(([, below]) => below));
  return [...rules.filter((rule) => !gone.has(rule)), ...collapsed.map(([parent]) => `*.${parent}`)].sort();
}

/** Of `a.example.com:443`, `example.com:443`. Undefined for what has none that may stand for it. */
function parentOf(rule: string): string | undefined {
  const match = /^([a-z0-9_-]+)\.([a-z0-9_.-]+)(:\d+)$/.exec(rule);
  if (!match || /^[\d.]+:/.test(rule)) return undefined;
  const [, , parent = "", port = ""] = match;
  const labels = parent.split(".");
  const isSuffix =
    labels.length < 2 ||
    (labels.length === 2 && /^[a-z]{2}$/.test(labels[1] ?? "") && (labels[0] ?? "").length <= 3);
  return isSuffix ? undefined : `${parent}${port}`;
}
