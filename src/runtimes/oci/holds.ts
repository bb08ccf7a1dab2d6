import { WarrenError } from "../../contracts/errors.ts";

/**
 * Keeps what is removed apart from what is just being used: between the look whether it is there and the record that says so
 * of a new sandbox, and between the look whether a sandbox has it and its removal.
 */
export interface Holds {
  /** Until disposed nobody removes any of them. Throws `in_use` for what is being removed. */
  hold(names: readonly string[]): Disposable;
  /** Throws `in_use` while somebody holds it. */
  alone<T>(name: string, task: () => Promise<T>): Promise<T>;
}

/** `kind` as in "the volume x". */
export function createHolds(kind: string): Holds {
  const held = new Map<string, number>();
  const closed = new Set<string>();
  return {
    hold(names) {
      const gone = names.find((name) => closed.has(name));
      if (gone !== undefined) throw new WarrenError("in_use", `the ${kind} ${gone} is being removed`);
      for (const name of names) held.set(name, (held.get(name) ?? 0) + 1);
      return {
        [Symbol.dispose]() {
          for (const name of names) {
            const left = (held.get(name) ?? 1) - 1;
            if (left === 0) held.delete(name);
            else held.set(name, left);
          }
        },
      };
    },
    async alone(name, task) {
      if (held.has(name)) {
        throw new WarrenError("in_use", `a sandbox that uses the ${kind} ${name} is being made`);
      }
      if (closed.has(name)) throw new WarrenError("in_use", `the ${kind} ${name} is being removed`);
      closed.add(name);
      try {
        return await task();
      } finally {
        closed.delete(name);
      }
    },
  };
}
