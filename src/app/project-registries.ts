import { type PresetRule, projectRules } from "../lib/presets/presets.ts";

/** Rules for the registries that the files of a project name, and which file does. */
export function projectRegistries(dir: string): PresetRule[] {
  return projectRules(dir);
}
