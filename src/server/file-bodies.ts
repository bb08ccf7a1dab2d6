import { z } from "zod";

/** What no file system mode goes beyond: permission bits, set-id and sticky. */
const MAX_MODE = 0o7777;

/** den has no such request; the path is checked as those in queries are. */
export const RenameRequest = z
  .object({ from: z.string({ error: "from is required" }), to: z.string({ error: "to is required" }) })
  .meta({ id: "RenameRequest" });
export const ChmodRequest = z
  .object({
    path: z.string({ error: "path is required" }),
    mode: z.number().int().min(0).max(MAX_MODE).meta({ description: "Permission bits, 420 for 0644" }),
  })
  .meta({ id: "ChmodRequest" });
