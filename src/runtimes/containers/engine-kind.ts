import { z } from "zod";
import { readAnswer } from "./answers.ts";
import { type ApiClient, engineFailure } from "./api-client.ts";

const Version = z.object({ Components: z.array(z.object({ Name: z.string() })).nullish() });

/** Whether the engine is Podman, whose answer to some requests is not Docker's. It is asked once. */
export function createEngineKind(client: ApiClient): { isPodman(): Promise<boolean> } {
  let asked: Promise<boolean> | undefined;
  const ask = async (): Promise<boolean> => {
    const { Components } = readAnswer(Version, await client.json({ path: "/version" }));
    return (Components ?? []).some(({ Name }) => Name === "Podman Engine");
  };
  return {
    isPodman() {
      asked ??= ask().catch((error: unknown) => {
        asked = undefined;
        throw engineFailure(error, "the container engine does not tell what it is");
      });
      return asked;
    },
  };
}
