/** Long enough for a tool's own sentence, short enough for ours. */
const MAX_LENGTH = 400;

/** The last non-empty line that a tool printed, without control characters or anything that may be a credential. */
export function lastWords(output: Uint8Array): string {
  const lines = Buffer.from(output)
    .toString("utf8")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  const last = lines.at(-1) ?? "it said nothing";
  // logrus, which skopeo and umoci use: time="…" level=fatal msg="…"
  const message = /\bmsg="((?:[^"\\]|\\.)*)"/.exec(last)?.[1]?.replaceAll('\\"', '"') ?? last;
  return redact(message).slice(0, MAX_LENGTH);
}

function redact(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
      .replace(/[\u0000-\u001f\u007f-\u009f]/g, " ")
      .replace(/:\/\/[^/\s@]+@/g, "://")
      .replace(/\?[^\s"']+/g, "?…")
      .replace(/\b(bearer|basic|token|password|secret)(\s*[:=]?\s+|[:=])\S+/gi, "$1 …")
  );
}
