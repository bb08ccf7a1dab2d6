import { posix } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import { checkedEntries, endOfTar, hardLink, type TarEntry } from "../../../lib/tar-entries.ts";

const MAX_CONTEXT_BYTES = 64 * 2 ** 30;

/**
 * What goes to the engine of a build's context: a tar in which the Dockerfile is a file of its own. Podman would follow a link to
 * one of the engine's machine and show what is in it.
 * @throws WarrenError `invalid_request`
 */
export async function* buildContext(
  context: AsyncIterable<Uint8Array>,
  dockerfile: string | undefined,
): AsyncGenerator<Uint8Array> {
  const wanted = dockerfile === undefined ? ["Dockerfile", "Containerfile"] : [insideContext(dockerfile)];
  const found = new Set<string>();
  const onEntry = ({ name, type }: TarEntry) => {
    const path = posix.normalize(name).replace(/^\/+|\/+$/g, "");
    const isLink = type === "1" || type === "2";
    if (isLink && wanted.some((file) => file === path || file.startsWith(`${path}/`))) {
      throw new WarrenError("invalid_request", `${path} is a link, by which no Dockerfile is read`, {
        hint: "put the file itself there, or name it as the Dockerfile",
      });
    }
    if (wanted.includes(path)) found.add(path);
  };
  yield* checkedEntries(context, { code: "invalid_request", maxBytes: MAX_CONTEXT_BYTES, onEntry });
  // Which one is there is known only now; the engine was told the first.
  const [first = "", second] = wanted;
  if (!found.has(first) && second !== undefined && found.has(second)) yield hardLink(first, second);
  yield endOfTar;
}

/** The Dockerfile's path as the engine is told it. @throws WarrenError `invalid_request` */
export function dockerfilePath(dockerfile: string | undefined): string {
  // Podman takes what is JSON for a list of paths of its own machine, which this never is.
  return `./${insideContext(dockerfile ?? "Dockerfile")}`;
}

function insideContext(path: string): string {
  const normal = posix.normalize(path);
  if (!/^\/|^\.\.(\/|$)|\/$|^\.$|\0/.test(normal)) return normal;
  throw new WarrenError("invalid_request", `${JSON.stringify(path)} is no path of a file in the context`);
}
