import { join } from "node:path";
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
  readNpmrc,
  readNugetConfig,
  readPipConf,
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
  /** Default hosts as its documentation has them, as rules. */
  defaults: readonly string[];
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
const npmrcs = (places: Places) => [
  system(places, "/etc/npmrc"),
  system(places, "/usr/etc/npmrc"),
  system(places, "/usr/local/etc/npmrc"),
  ...named(places, "NPM_CONFIG_GLOBALCONFIG"),
  home(places, ".npmrc"),
  ...named(places, "NPM_CONFIG_USERCONFIG"),
];

/** Each manager's page on its configuration says where these are and what they mean. Nothing of theirs is run. */
export const packageManagers: readonly PackageManager[] = [
  {
    name: "npm",
    defaults: ["registry.npmjs.org:443"],
    files: npmrcs,
    project: [".npmrc"],
    read: readNpmrc,
    variables: { NPM_CONFIG_REGISTRY: readUrls, npm_config_registry: readUrls },
  },
  {
    name: "yarn",
    // It reads npm's files too.
    defaults: ["registry.yarnpkg.com:443"],
    files: (places) => [system(places, "/etc/yarnrc"), home(places, ".yarnrc"), home(places, ".yarnrc.yml")],
    project: [".yarnrc", ".yarnrc.yml"],
    read: readYarnrc,
    variables: { YARN_REGISTRY: readUrls, YARN_NPM_REGISTRY_SERVER: readUrls },
  },
  {
    name: "pip",
    defaults: ["pypi.org:443", "files.pythonhosted.org:443"],
    files: (places) => [
      system(places, "/etc/pip.conf"),
      system(places, "/etc/xdg/pip/pip.conf"),
      home(places, ".pip/pip.conf"),
      config(places, "pip/pip.conf"),
      ...named(places, "PIP_CONFIG_FILE"),
    ],
    project: [],
    read: readPipConf,
    variables: { PIP_INDEX_URL: readUrls, PIP_EXTRA_INDEX_URL: readMoreUrls, PIP_FIND_LINKS: readMoreUrls },
  },
  {
    name: "uv",
    defaults: ["pypi.org:443", "files.pythonhosted.org:443"],
    files: (places) => [system(places, "/etc/uv/uv.toml"), config(places, "uv/uv.toml")],
    project: ["uv.toml"],
    read: readUvToml,
    variables: { UV_DEFAULT_INDEX: readUrls, UV_INDEX_URL: readUrls, UV_EXTRA_INDEX_URL: readMoreUrls },
  },
  {
    name: "conda",
    defaults: ["conda.anaconda.org:443", "repo.anaconda.com:443"],
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
    defaults: ["index.crates.io:443", "static.crates.io:443", "crates.io:443"],
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
    defaults: ["static.rust-lang.org:443"],
    files: () => [],
    project: [],
    read: readUrls,
    variables: { RUSTUP_DIST_SERVER: readUrls, RUSTUP_UPDATE_ROOT: readMoreUrls },
  },
  {
    name: "go",
    defaults: ["proxy.golang.org:443"],
    files: goEnv,
    project: [],
    read: goVariable("GOPROXY", readGoProxy),
    variables: { GOPROXY: readGoProxy },
  },
  {
    name: "go's checksums",
    defaults: ["sum.golang.org:443"],
    files: goEnv,
    project: [],
    read: goVariable("GOSUMDB", readGoSumDb),
    variables: { GOSUMDB: readGoSumDb },
  },
  {
    name: "maven",
    defaults: ["repo.maven.apache.org:443", "repo1.maven.org:443"],
    files: (places) => [
      system(places, "/etc/maven/settings.xml"),
      ...named(places, "MAVEN_HOME", "conf/settings.xml"),
      home(places, ".m2/settings.xml"),
    ],
    project: [],
    read: readMavenSettings,
  },
  {
    name: "gradle",
    // Its repositories are named by programs, which are not run.
    defaults: [
      "plugins.gradle.org:443",
      "plugins-artifacts.gradle.org:443",
      "services.gradle.org:443",
      "downloads.gradle.org:443",
    ],
    files: () => [],
    project: [],
    read: readMoreUrls,
  },
  {
    name: "gem and bundler",
    defaults: ["rubygems.org:443", "index.rubygems.org:443"],
    files: (places) => [system(places, "/etc/gemrc"), home(places, ".gemrc")],
    project: [],
    read: readYamlUrls,
  },
  {
    name: "bundler's mirrors",
    defaults: [],
    files: (places) => [home(places, ".bundle/config"), ...named(places, "BUNDLE_USER_CONFIG")],
    project: [".bundle/config"],
    read: readBundleConfig,
  },
  {
    name: "composer",
    defaults: ["repo.packagist.org:443", "packagist.org:443"],
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
    defaults: ["api.nuget.org:443", "www.nuget.org:443"],
    files: (places) => [home(places, ".nuget/NuGet/NuGet.Config"), config(places, "NuGet/NuGet.Config")],
    project: ["nuget.config", "NuGet.Config"],
    read: readNugetConfig,
  },
  {
    name: "apt",
    // Debian's and Ubuntu's: an image's sources are not the host's. Signatures, not TLS, vouch for what comes.
    defaults: [
      "deb.debian.org:80",
      "deb.debian.org:443",
      "security.debian.org:80",
      "security.debian.org:443",
      "archive.ubuntu.com:80",
      "archive.ubuntu.com:443",
      "security.ubuntu.com:80",
      "security.ubuntu.com:443",
      "ports.ubuntu.com:80",
    ],
    files: (places) => [system(places, "/etc/apt/sources.list"), system(places, "/etc/apt/sources.list.d/*")],
    project: [],
    read: readAptSources,
  },
  {
    name: "apk",
    defaults: ["dl-cdn.alpinelinux.org:443", "dl-cdn.alpinelinux.org:80"],
    files: () => [],
    project: [],
    read: readMoreUrls,
  },
];
