/** Longest text that a variable's value may make of a line. */
const MAX_LENGTH = 4096;
/** More than any build uses. */
const MAX_BASES = 64;

/**
 * The images that a Dockerfile takes from elsewhere, each once: those of FROM, of `COPY --from`, and of `RUN --mount=…,from=`, without
 * `scratch` and the file's own stages. Variables of FROM are those of `ARG` before the first one.
 */
export function baseImages(dockerfile: string, buildArgs: Readonly<Record<string, string>> = {}): string[] {
  const variables = new Map<string, string>();
  const stages = new Set<string>(["scratch"]);
  const found = new Set<string>();
  const add = (name: string | undefined) => {
    if (name === undefined || name === "" || name.length > MAX_LENGTH || /^\d+$/.test(name)) return;
    if (!stages.has(name.toLowerCase()) && found.size < MAX_BASES) found.add(name);
  };
  let isBeforeFrom = true;
  for (const line of instructions(dockerfile)) {
    const [keyword = "", ...words] = line.split(/\s+/);
    switch (keyword.toUpperCase()) {
      case "ARG":
        for (const word of isBeforeFrom ? words : []) {
          const [name = "", value = ""] = splitOnce(word, "=");
          variables.set(name, buildArgs[name] ?? unquote(expand(value, variables)));
        }
        break;
      case "FROM": {
        isBeforeFrom = false;
        const [name, as, stage] = words.filter((word) => !word.startsWith("--"));
        add(name === undefined ? undefined : unquote(expand(name, variables)));
        if (as?.toUpperCase() === "AS" && stage) stages.add(stage.toLowerCase());
        break;
      }
      case "COPY":
      case "ADD":
        for (const word of words) if (word.startsWith("--from=")) add(unquote(word.slice("--from=".length)));
        break;
      case "RUN":
        for (const word of words) {
          if (!word.startsWith("--")) break;
          add(/^--mount=(?:.*,)?from=([^,]+)/.exec(word)?.[1]);
        }
        break;
    }
  }
  return [...found];
}

/** Lines without comments, those that go on joined. */
function instructions(text: string): string[] {
  const joiner = /^#\s*escape\s*=\s*`\s*$/im.test(text.split("\n", 1)[0] ?? "") ? "`" : "\\";
  const found: string[] = [];
  let open = "";
  for (const raw of text.split(/\r?\n/)) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    if (line.endsWith(joiner)) open += `${line.slice(0, -1)} `;
    else {
      found.push((open + line).trim());
      open = "";
    }
  }
  if (open !== "") found.push(open.trim());
  return found;
}

/** `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+instead}`. */
function expand(text: string, variables: ReadonlyMap<string, string>): string {
  return text
    .replace(/\$(?:\{(\w+)(?::([-+])([^}]*))?\}|(\w+))/g, (_, braced, operator, word, plain) => {
      const value = variables.get(braced ?? plain) ?? "";
      if (operator === "-") return value === "" ? word : value;
      if (operator === "+") return value === "" ? "" : word;
      return value;
    })
    .slice(0, MAX_LENGTH + 1);
}

function unquote(text: string): string {
  return /^(["']).*\1$/s.test(text) ? text.slice(1, -1) : text;
}

function splitOnce(text: string, separator: string): [string, string?] {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}
