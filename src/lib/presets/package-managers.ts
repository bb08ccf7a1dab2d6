import { dirname, join } from "node:path";
import {
  goVariable,
  type ReadConfig,
  readAptSources,
  readBundleConfig,
  readCargoConfig,
  readComposerJson,
  readGoProxy,
  readGoSumDb,
  readMavenSettings,
  readMoreUrls,
  readNpmDefinitions,
  readNpmrc,
  readNugetConfig,
  readPipConf,
  readPipIndex,
  readUrls,
  readUvToml,
  readYamlUrls,
  readYarnrc,
} from "./config-text.ts";

/** Where configuration is looked for. */
export interface Places {
  /** Of the engine's user. */
  home: string;
  /** A variable of the engine's environment. */
  variable: (name: string) => string | undefined;
  /** Before the paths of the system's own files, for tests. */
  root?: string;
}

export interface PackageManager {
  name: string;
  /** Files that come with it, and name what it asks where nothing else is configured. */
  shipped?: { files: (places: Places) => readonly string[]; read: ReadConfig };
  /** Files of the system and of the user; a name that ends in `/*` means the files of a directory. */
  files: (places: Places) => readonly string[];
  /** Files in a project's directory. */
  project: readonly string[];
  read: ReadConfig;
  variables?: Readonly<Record<string, ReadConfig>>;
}

const system = ({ root = "" }: Places, path: string) => join(root, path);
const home = ({ home: dir }: Places, path: string) => join(dir, path);
const config = ({ home: dir, variable }: Places, path: string) => {
  const chosen = variable("XDG_CONFIG_HOME");
  return join(chosen?.startsWith("/") ? chosen : join(dir, ".config"), path);
};
/** A file or directory that a variable names. */
const named = ({ variable }: Places, name: string, path = "") => {
  const value = variable(name);
  return value?.startsWith("/") ? [join(value, path)] : [];
};
const goEnv = (places: Places) => [config(places, "go/env"), ...named(places, "GOENV")];
const goDefaults = (places: Places) =>
  ["/usr/local/go", "/usr/lib/go"].map((dir) => system(places, join(dir, "go.env")));
const npmrcs = (places: Places) => [
  system(places, "/etc/npmrc"),
  system(places, "/usr/etc/npmrc"),
  system(places, "/usr/local/etc/npmrc"),
  ...named(places, "NPM_CONFIG_GLOBALCONFIG"),
  home(places, ".npmrc"),
  ...named(places, "NPM_CONFIG_USERCONFIG"),
];

/** Where Node.js and its npm may be, beside the one that runs us. */
const nodePrefixes = (places: Places) => [
  system(places, "/usr/local"),
  system(places, "/usr"),
  system(places, "/usr/share/nodejs"),
  ...(places.root === undefined ? [dirname(dirname(process.execPath))] : []),
];
const npmDefinitions = "npm/node_modules/@npmcli/config/lib/definitions/definitions.js";
const pipIndex = "pip/_internal/models/index.py";

/** Only what this machine is configured with, or has installed: no host is named here. Each manager's page on its configuration says where these are and what they mean. Nothing of theirs is run. */
export const packageManagers: readonly PackageManager[] = [
  {
    name: "npm",
    files: npmrcs,
    project: [".npmrc"],
    read: readNpmrc,
    shipped: {
      files: (places) =>
        nodePrefixes(places).flatMap((prefix) => [
          join(prefix, "lib/node_modules", npmDefinitions),
          join(prefix, npmDefinitions),
        ]),
      read: readNpmDefinitions,
    },
    variables: { NPM_CONFIG_REGISTRY: readUrls, npm_config_registry: readUrls },
  },
  {
    name: "yarn",
    // It reads npm's files too.
    files: (places) => [system(places, "/etc/yarnrc"), home(places, ".yarnrc"), home(places, ".yarnrc.yml")],
    project: [".yarnrc", ".yarnrc.yml"],
    read: readYarnrc,
    variables: { YARN_REGISTRY: readUrls, YARN_NPM_REGISTRY_SERVER: readUrls },
  },
  {
    name: "pip",
    files: (places) => [
      system(places, "/etc/pip.conf"),
      system(places, "/etc/xdg/pip/pip.conf"),
      home(places, ".pip/pip.conf"),
      config(places, "pip/pip.conf"),
      ...named(places, "PIP_CONFIG_FILE"),
    ],
    project: [],
    read: readPipConf,
    shipped: {
      files: (places) => [system(places, join("/usr/lib/python3/dist-packages", pipIndex))],
      read: readPipIndex,
    },
    variables: { PIP_INDEX_URL: readUrls, PIP_EXTRA_INDEX_URL: readMoreUrls, PIP_FIND_LINKS: readMoreUrls },
  },
  {
    name: "uv",
    files: (places) => [system(places, "/etc/uv/uv.toml"), config(places, "uv/uv.toml")],
    project: ["uv.toml"],
    read: readUvToml,
    variables: { UV_DEFAULT_INDEX: readUrls, UV_INDEX_URL: readUrls, UV_EXTRA_INDEX_URL: readMoreUrls },
  },
  {
    name: "conda",
    files: (places) => [
      system(places, "/etc/conda/.condarc"),
      home(places, ".condarc"),
      config(places, "conda/.condarc"),
      ...named(places, "CONDARC"),
    ],
    project: [],
    read: readYamlUrls,
  },
  {
    name: "cargo",
    files: (places) => [
      home(places, ".cargo/config"),
      home(places, ".cargo/config.toml"),
      ...named(places, "CARGO_HOME", "config.toml"),
    ],
    project: [".cargo/config", ".cargo/config.toml"],
    read: readCargoConfig,
  },
  {
    name: "rustup",
    files: () => [],
    project: [],
    read: readUrls,
    variables: { RUSTUP_DIST_SERVER: readUrls, RUSTUP_UPDATE_ROOT: readMoreUrls },
  },
  {
    name: "go",
    files: goEnv,
    project: [],
    read: goVariable("GOPROXY", readGoProxy),
    shipped: { files: goDefaults, read: goVariable("GOPROXY", readGoProxy) },
    variables: { GOPROXY: readGoProxy },
  },
  {
    name: "go's checksums",
    files: goEnv,
    project: [],
    read: goVariable("GOSUMDB", readGoSumDb),
    shipped: { files: goDefaults, read: goVariable("GOSUMDB", readGoSumDb) },
    variables: { GOSUMDB: readGoSumDb },
  },
  {
    name: "maven",
    files: (places) => [
      system(places, "/etc/maven/settings.xml"),
      ...named(places, "MAVEN_HOME", "conf/settings.xml"),
      home(places, ".m2/settings.xml"),
    ],
    project: [],
    read: readMavenSettings,
  },
  {
    name: "gem and bundler",
    files: (places) => [system(places, "/etc/gemrc"), home(places, ".gemrc")],
    project: [],
    read: readYamlUrls,
  },
  {
    name: "bundler's mirrors",
    files: (places) => [home(places, ".bundle/config"), ...named(places, "BUNDLE_USER_CONFIG")],
    project: [".bundle/config"],
    read: readBundleConfig,
  },
  {
    name: "composer",
    files: (places) => [
      home(places, ".composer/config.json"),
      config(places, "composer/config.json"),
      ...named(places, "COMPOSER_HOME", "config.json"),
    ],
    project: ["composer.json"],
    read: readComposerJson,
  },
  {
    name: "nuget",
    files: (places) => [home(places, ".nuget/NuGet/NuGet.Config"), config(places, "NuGet/NuGet.Config")],
    project: ["nuget.config", "NuGet.Config"],
    read: readNugetConfig,
  },
  {
    name: "apt",
    files: (places) => [system(places, "/etc/apt/sources.list"), system(places, "/etc/apt/sources.list.d/*")],
    project: [],
    read: readAptSources,
  },
];
