import { StringDecoder } from "node:string_decoder";

/** Characters of one line that are kept; what a program prints without end is no line. */
const MAX_LINE = 2000;

/**
 * Cuts what a program prints into lines for people: of bounded length, without control characters but tabs, and without
 * empty ones. Carriage returns end a line too.
 */
export interface LineCutter {
  push(data: Uint8Array): void;
  /** What was left without an end. */
  end(): void;
}

export function cutLines(onLine: (line: string) => void): LineCutter {
  const decoder = new StringDecoder("utf8");
  let open = "";
  const tell = (line: string) => {
    const clean = printable(line).trimEnd();
    if (clean !== "") onLine(clean.length > MAX_LINE ? `${clean.slice(0, MAX_LINE)}…` : clean);
  };
  const take = (text: string) => {
    const lines = text.split(/[\r\n]/);
    const last = lines.pop() ?? "";
    for (const line of lines) {
      tell(open + line);
      open = "";
    }
    // One more than is kept, so that it shows that there was more; escape sequences take room that doesn't show.
    open = (open + last).slice(0, MAX_LINE * 4);
  };
  return {
    push: (data) => take(decoder.write(Buffer.from(data))),
    end() {
      take(decoder.end());
      tell(open);
      open = "";
    },
  };
}

function printable(text: string): string {
  return (
    text
      // CSI sequences (colours, cursor) and OSC ones (titles, clipboard), then whatever is left of others.
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
      .replace(/\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?/g, "")
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
      .replace(/[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g, "")
  );
}
