import { WarrenError } from "../contracts/errors.ts";
import type { Runtime } from "../contracts/runtime.ts";
import { chooseRuntime } from "./admission.ts";
import type { Core } from "./core.ts";

/** Something that some runtimes have and others lack, such as volumes. */
export interface Facet<S> {
  /** Of the runtime that is named, else of the default one. Throws `unsupported`. */
  of(name: string | undefined): { runtime: Runtime; store: S };
  /** Of the runtime that is named, else of all that have it. Throws `unsupported` when there is none. */
  all(name: string | undefined): S[];
}

/** `what`: the facet in the plural, for the sentence that it is lacking. */
export function createFacet<S>(
  { runtimes, defaultRuntime }: Pick<Core, "runtimes" | "defaultRuntime">,
  what: string,
  storeOf: (runtime: Runtime) => S | undefined,
): Facet<S> {
  function of(name: string = defaultRuntime) {
    const runtime = chooseRuntime(name, runtimes);
    const store = storeOf(runtime);
    if (store) return { runtime, store };
    throw new WarrenError("unsupported", `the runtime ${runtime.name} has no ${what}`, {
      hint: "choose another runtime; warren doctor tells what each can do",
    });
  }
  return {
    of,
    all(name) {
      const able = Object.values(runtimes).flatMap((runtime) => storeOf(runtime) ?? []);
      return name === undefined && able.length > 0 ? able : [of(name).store];
    },
  };
}
