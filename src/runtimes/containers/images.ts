import { WarrenError } from "../../contracts/errors.ts";
import type { PreparedImage, Runtime } from "../../contracts/runtime.ts";
import { ImageInspection, readAnswer } from "./answers.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "./api-client.ts";

export function createImages(client: ApiClient, runtime: string): Runtime["images"] {
  const inspect = async (reference: string): Promise<ImageInspection | undefined> => {
    try {
      const path = `/images/${encodeURIComponent(reference)}/json`;
      return readAnswer(ImageInspection, await client.json({ path }));
    } catch (error) {
      // Docker redirects from names that look like paths, and no image has one.
      if (error instanceof EngineRefusal && [301, 404].includes(error.status)) return undefined;
      // Podman answers 500 to a reference that can't be one.
      if (error instanceof EngineRefusal && /invalid reference format/.test(error.message)) return undefined;
      throw engineFailure(error, `the image ${reference} can't be looked at`);
    }
  };
  return {
    async ensure(reference) {
      const found = await inspect(reference);
      if (found) return prepared(reference, found);
      throw new WarrenError("image_not_found", `${runtime} has no image ${JSON.stringify(reference)}`, {
        hint: `warren image pull ${reference}`,
      });
    },
  };
}

function prepared(reference: string, { Id, Config }: ImageInspection): PreparedImage {
  const env = (Config?.Env ?? []).map((entry): [string, string] => {
    const [name = "", ...rest] = entry.split("=");
    return [name, rest.join("=")];
  });
  return {
    id: Id.startsWith("sha256:") ? Id : `sha256:${Id}`,
    reference,
    env: Object.fromEntries(env.filter(([name]) => name !== "")),
    ...(Config?.WorkingDir ? { workdir: Config.WorkingDir } : {}),
    ...(Config?.User ? { user: Config.User } : {}),
    ...(Config?.Cmd?.length ? { cmd: Config.Cmd } : {}),
  };
}
