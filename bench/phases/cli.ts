import { createNodeClient, Sandbox } from "../../src/client/node/index.ts";
import { timed } from "../results.ts";
import { run } from "../subjects/process.ts";
import { CLI, FRONT } from "../subjects/warren-server.ts";
import type { Phase } from "./phase.ts";

/** A whole `warren exec` of the command line, beside Node doing nothing. */
export const cliPhase: Phase = async ({ recorder, server, options, subjects, isOver, name }) => {
  if (!subjects.some((subject) => subject.name.endsWith("(crun)") && subject.name.startsWith("Warren")))
    return;
  const client = createNodeClient({ url: server.url() });
  const box = await Sandbox.create({ image: server.image(), timeoutS: -1 }, { client });
  const node = [process.execPath, "-e", "0"];
  const command = ["exec", "--state-dir", server.stateDir(), box.id, "/bin/true"];
  // Where it names a large list, reading that takes Node longer than all the rest, and would flatter us.
  const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;
  for (let round = -2; round < options.rounds; round++) {
    if (isOver()) {
      recorder.note(`${name}: ended after ${Math.max(round, 0)} of ${options.rounds} rounds`);
      break;
    }
    const bare = await timed(() => run(node, { env }));
    const ours = await timed(() => run([FRONT, ...command], { env }));
    const byNode = await timed(() => run([process.execPath, CLI, ...command], { env }));
    if (round < 0) continue;
    recorder.add("one command from a shell", "ms", "node -e 0", bare);
    recorder.add("one command from a shell", "ms", "warren exec (CLI)", ours);
    recorder.add("one command from a shell", "ms", "the same by Node alone", byNode);
  }
  await box.remove();
};
