#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static const char *env_value(char *const *env, const char *name) {
  size_t length = strlen(name);
  for (; *env != NULL; env++) {
    if (strncmp(*env, name, length) == 0 && (*env)[length] == '=') return *env + length + 1;
  }
  return NULL;
}

static bool add_default(char **env, size_t *count, const char *name, const char *value) {
  if (*value == 0 || env_value(env, name) != NULL) return true;
  size_t bytes = strlen(name) + strlen(value) + 2;
  char *text = malloc(bytes);
  if (text == NULL) return false;
  snprintf(text, bytes, "%s=%s", name, value);
  env[(*count)++] = text;
  env[*count] = NULL;
  return true;
}

char **complete_env(char *const *env, size_t count, const struct account *account) {
  char **complete = calloc(count + 5, sizeof *complete);
  if (complete == NULL) return NULL;
  if (count > 0) memcpy(complete, env, count * sizeof *env);
  // As with other runtimes, a user without a passwd entry lives in `/`.
  const char *home = account->home[0] != 0 ? account->home : "/";
  bool ok = add_default(complete, &count, "PATH", DEFAULT_PATH) && add_default(complete, &count, "HOME", home) &&
            add_default(complete, &count, "USER", account->name) && add_default(complete, &count, "LOGNAME", account->name);
  return ok ? complete : NULL;
}

/// The kernel should rather take the payload's memory than the guest's. Raising needs no privilege.
static void prefer_for_oom(void) {
  char text[16] = "";
  int fd = openat(FD_PROC, "self/oom_score_adj", O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  if (read(fd, text, sizeof text - 1) > 0) {
    int score = atoi(text) + 200;
    int n = snprintf(text, sizeof text, "%d", score > 1000 ? 1000 : score);
    if (pwrite(fd, text, (size_t)n, 0) < 0) {
      // Best effort.
    }
  }
  close(fd);
}

/// Raw calls: the library's would signal other threads, of which there are none, from a process that shares memory.
static bool change_user(const struct account *a) {
  if (!a->change) return true;
  bool same = a->uid == geteuid() && a->uid == getuid();
  // Where setgroups is denied (a rootless user namespace), staying who we are gains nothing that we did not have.
  if (syscall(SYS_setgroups, a->group_count, a->groups) != 0 && !(same && errno == EPERM)) return false;
  if (syscall(SYS_setresgid, a->gid, a->gid, a->gid) != 0) return false;
  return syscall(SYS_setresuid, a->uid, a->uid, a->uid) == 0;
}

static void default_signals(void) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  for (int n = 1; n <= 64; n++) sigaction(n, &action, NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static void note_exec_failure(struct outcome *o, const char *path) {
  o->error = errno;
  o->bad_interpreter = o->error == ENOENT && access(path, F_OK) == 0;
}

/// Like execvp with the new environment's PATH, but a file that is no program is an error and never given to a shell.
static void exec_on_path(const struct launch *l, struct outcome *o) {
  const char *program = l->argv[0];
  errno = ENOENT;
  if (*program == 0 || strchr(program, '/') != NULL) {
    if (*program != 0) execve(program, l->argv, l->env);
    note_exec_failure(o, program);
    return;
  }
  const char *path = env_value(l->env, "PATH");
  size_t name_bytes = strlen(program);
  o->error = ENOENT;
  for (const char *at = path != NULL ? path : DEFAULT_PATH;;) {
    const char *end = strchrnul(at, ':');
    char candidate[PATH_MAX];
    size_t dir_bytes = (size_t)(end - at);
    if (dir_bytes + name_bytes + 2 <= sizeof candidate) {
      memcpy(candidate, at, dir_bytes);
      if (dir_bytes > 0) candidate[dir_bytes++] = '/';
      memcpy(candidate + dir_bytes, program, name_bytes + 1);
      execve(candidate, l->argv, l->env);
      if (errno == EACCES) {
        o->error = EACCES;
      } else if (errno == ENOENT && access(candidate, F_OK) == 0) {
        o->error = ENOENT;
        o->bad_interpreter = true;
        return;
      } else if (errno != ENOENT && errno != ENOTDIR) {
        o->error = errno;
        return;
      }
    }
    if (*end == 0) return;
    at = end + 1;
  }
}

/// In the child. The outcome is in memory that the parent reads, so it tells of a failure only once there is one.
_Noreturn static void become(const struct launch *l, struct outcome *o) {
  enum stage stage = STAGE_SETUP;
  setsid();
  default_signals();
  prefer_for_oom();
  bool ok = !l->tty || ioctl(l->fd[0], TIOCSCTTY, 0) == 0;
  for (int i = 0; ok && i < 3; i++) ok = dup2(l->fd[i], i) == i;
  umask(022);
  if (ok) ok = groups_join(l->limited);
  if (ok) {
    stage = STAGE_USER;
    ok = change_user(l->account);
  }
  if (ok) {
    stage = STAGE_CWD;
    ok = chdir(l->cwd) == 0;
  }
  o->error = errno;
  if (ok) {
    close_from(3);
    stage = STAGE_EXEC;
    exec_on_path(l, o);
  }
  o->failed = stage;
  _exit(127);
}

pid_t launch(const struct launch *l, struct outcome *outcome) {
  // The child of vfork writes its outcome into our memory: no pipe, and no page tables to copy.
  static struct outcome result;
  result = (struct outcome){0};
  pid_t pid = vfork();
  if (pid == 0) become(l, &result);
  int error = errno;
  // The child shared our memory when it changed its user, which may have made it readable.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  *outcome = result;
  if (pid < 0) {
    outcome->failed = STAGE_SETUP;
    outcome->error = error;
  }
  return pid;
}

int explain_exec_failure(const struct outcome *o, const char *program, char *line, size_t line_bytes) {
  char name[201];
  size_t n = 0;
  for (; n < sizeof name - 1 && program[n] != 0; n++) name[n] = program[n] >= ' ' ? program[n] : '?';
  name[n] = 0;
  bool missing = (o->error == ENOENT || o->error == ENOTDIR) && !o->bad_interpreter;
  const char *reason = missing             ? "command not found"
                       : o->bad_interpreter ? "its interpreter was not found"
                                            : strerror(o->error);
  snprintf(line, line_bytes, "warren: %s: %s\n", name, reason);
  return missing ? 127 : 126;
}
