import { WarrenError } from "../../../contracts/errors.ts";

/**
 * Why a pull failed, by the words of whoever tried: programs have one exit code for all, and engines one status. The
 * registry's own error codes are in the text (distribution spec, "error codes"). `login` is the command that stores credentials.
 */
export function pullError(source: string, words: string, login: string): WarrenError {
  if (
    /manifest unknown|name unknown|repository name not known|no descriptor found|no such file|does not exist|unknown blob/i.test(
      words,
    )
  ) {
    return new WarrenError("image_not_found", `${source} was not found: ${words}`, {
      hint: `check the name; a private image needs credentials: ${login}`,
    });
  }
  const denied = /unauthorized|denied|authentication required|forbidden|no basic\b/i.test(words);
  return new WarrenError("image_pull_failed", `${source} could not be pulled: ${words}`, {
    hint: denied
      ? `check the name; for a private image run \`${login}\` on this host first`
      : "check the name, and that this host reaches the registry",
  });
}
