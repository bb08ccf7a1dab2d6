import { WarrenError } from "../contracts/errors.ts";
import type { Runtime } from "../contracts/runtime.ts";
import { chooseRuntime } from "./admission.ts";
import type { Core } from "./core.ts";

/** Something that some runtimes have and others lack, such as volumes. */
export interface Facet<S> {
  /** Of the runtime that is named, else of the default one. Throws `unsupported`, `runtime_unavailable`. */
  of(name: string | undefined): Promise<{ runtime: Runtime; store: S }>;
  /** Of the runtime that is named, else of all in use that have it. Throws `unsupported` when there is none. */
  all(name: string | undefined): Promise<S[]>;
}

/** `what`: the facet in the plural, for the sentence that it is lacking. */
export function createFacet<S>(
  { runtimes }: Pick<Core, "runtimes">,
  what: string,
  storeOf: (runtime: Runtime) => S | undefined,
): Facet<S> {
  async function of(name: string | undefined) {
    const runtime = await runtimes.use(chooseRuntime(name, runtimes));
    const store = storeOf(runtime);
    if (store) return { runtime, store };
    throw new WarrenError("unsupported", `the runtime ${runtime.name} has no ${what}`, {
      hint: "choose another runtime; warren doctor tells what each can do",
    });
  }
  return {
    of,
    async all(name) {
      if (name !== undefined) return [(await of(name)).store];
      // One that can't be reached fails the call: a list that lacks its part would look complete.
      const inUse = await Promise.all(runtimes.inUse().map((one) => runtimes.use(one)));
      const able = inUse.flatMap((runtime) => storeOf(runtime) ?? []);
      return able.length > 0 ? able : [(await of(name)).store];
    },
  };
}
