import { expect, it } from "vitest";
import { sandboxStatuses } from "../../src/contracts/sandbox.ts";
import { checkMove, nextStates, sandboxStates, wireStatus } from "../../src/engine/states.ts";

it("lets legal moves pass and refuses all others", () => {
  for (const from of sandboxStates) {
    for (const to of sandboxStates) {
      const move = () => checkMove("x", from, to);
      if (from === to || nextStates[from].includes(to)) expect(move).not.toThrow();
      else expect(move).toThrow(`can't go from ${from} to ${to}`);
    }
  }
});

it("lets every state but `creating` be left for removal or for a state that can", () => {
  const leadsToRemoval = (state: (typeof sandboxStates)[number], seen = new Set<string>()): boolean =>
    state === "removing" ||
    (!seen.has(state) && nextStates[state].some((next) => leadsToRemoval(next, new Set([...seen, state]))));
  for (const state of sandboxStates) expect(leadsToRemoval(state)).toBe(true);
});

it("shows each state as one that clients know", () => {
  for (const state of sandboxStates) expect(sandboxStatuses).toContain(wireStatus[state]);
});
