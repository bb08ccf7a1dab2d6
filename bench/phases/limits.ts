import { createNodeClient } from "../../src/client/node/index.ts";
import type { CreateSandbox } from "../../src/contracts/sandbox.ts";
import { timed } from "../results.ts";
import type { Phase } from "./phase.ts";

/** Who: the same sandbox through the same API, with what it may use used up by its own processes. */
export const limitCases = {
  plain: "with nothing in it",
  cpu: "a tenth of a core, used up",
  pids: "its processes used up",
  memory: "its memory used up, again and again",
} as const;

const cases: { who: string; limits: Partial<CreateSandbox>; payload?: string }[] = [
  { who: limitCases.plain, limits: {} },
  {
    who: limitCases.cpu,
    limits: { cpu: 100_000_000 },
    payload: "(while :; do :; done) & (while :; do :; done) &",
  },
  {
    who: limitCases.pids,
    limits: { pid_limit: 16 },
    payload: "i=0; while [ $i -lt 40 ]; do sleep 100000 & i=$((i+1)); done",
  },
  {
    // The processor limit keeps it from slowing the others down.
    who: limitCases.memory,
    limits: { memory: 64 << 20, cpu: 500_000_000 },
    payload: "(while :; do /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1; done) &",
  },
];

/** Whether a sandbox answers when its payload has used up its limits. */
export const limitsPhase: Phase = async ({ name, server, recorder, options, subjects, isOver }) => {
  // Which is what the server is of.
  if (!subjects.some(({ name: who }) => who.startsWith("Warren") && who.endsWith("(crun)"))) return;
  const api = createNodeClient({ url: server.url() });
  const boxes: { who: string; id: string }[] = [];
  try {
    for (const { who, limits, payload } of cases) {
      const { id } = await api.create({ image: server.image(), timeout: -1, ...limits });
      boxes.push({ who, id });
      if (payload) await api.exec(id, { cmd: ["/bin/sh", "-c", `{ ${payload} } >/dev/null 2>&1`] });
    }
    for (let round = -5; round < options.rounds * 4; round++) {
      if (isOver()) {
        recorder.note(`${name}: ended after ${Math.max(round, 0)} rounds`);
        return;
      }
      for (const { who, id } of boxes) {
        const ms = await timed(() => api.exec(id, { cmd: ["/bin/true"] }));
        if (round >= 0) recorder.add("exec at a limit", "ms", who, ms);
      }
    }
  } finally {
    for (const { id } of boxes) await api.remove(id);
  }
};
