import { EngineInfo, readAnswer } from "./answers.ts";
import { type ApiClient, engineFailure } from "./api-client.ts";

/** Where the engine keeps images and containers, on its own machine. */
export async function engineRootDir(client: ApiClient): Promise<string | undefined> {
  const answer = await client.json({ path: "/info" }).catch((error: unknown) => {
    throw engineFailure(error, "the container engine does not tell where its files are");
  });
  return readAnswer(EngineInfo, answer).DockerRootDir ?? undefined;
}
