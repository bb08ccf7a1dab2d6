import { readFileSync } from "node:fs";
import type { BuildOptions } from "../contracts/runtime.ts";
import { piecesOf, tarOf } from "./tar.ts";

/** An image that needs nothing from elsewhere. */
export const tinyImage =
  'FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV PATH=/bin GREETING="hello there"\n';

/** A build context with this machine's static busybox and these files. `dockerfile` stands for the usual name. */
export async function* buildContext(files: Readonly<Record<string, string>>): BuildOptions["context"] {
  const named = Object.entries(files).map(([name, text]) => [
    name === "dockerfile" ? "Dockerfile" : name,
    text,
  ]);
  yield* piecesOf(
    await tarOf({
      busybox: { content: readFileSync("/bin/busybox"), mode: 0o755 },
      ...Object.fromEntries(named),
    }),
  );
}
