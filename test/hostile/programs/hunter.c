// hunter PROGRAM: until it gets SIGTERM, looks at every other process again and again for the moment in which it can be
// taken over: opens its executable (and tries to write it when it is PROGRAM), its root, its memory, its descriptors.
// Prints how many looks there were, then each thing that was reached, once.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stop;
static char told[64][128];
static int told_count;

static void on_term(int number) {
  (void)number;
  stop = 1;
}

static void tell(const char *what, const char *detail) {
  char line[128];
  snprintf(line, sizeof line, "%s %.100s", what, detail);
  for (int i = 0; i < told_count; i++) {
    if (strcmp(told[i], line) == 0) return;
  }
  if (told_count < 64) strcpy(told[told_count++], line);
}

static void look_at(const char *pid, const char *program) {
  char path[300], target[256], exe[256] = "";
  snprintf(path, sizeof path, "/proc/%s/exe", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    exe[n < 0 ? 0 : n] = 0;
    if (strcmp(exe, program) == 0) {
      tell("opened", exe);
      snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
      int out = open(path, O_WRONLY | O_CLOEXEC);
      if (out >= 0) tell("could write", exe);
      if (out >= 0) close(out);
    }
    close(fd);
  }
  if (strcmp(exe, program) == 0) {
    snprintf(path, sizeof path, "/proc/%s/mem", pid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) tell("opened the memory of", exe);
    if (fd >= 0) close(fd);
  }
  snprintf(path, sizeof path, "/proc/%s/fd", pid);
  DIR *dir = opendir(path);
  if (dir == NULL) return;
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (e->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/%s/fd/%.20s", pid, e->d_name);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    // A command's own: pipes, its terminal, /dev/null.
    if (n <= 0 || strncmp(target, "pipe:", 5) == 0 || strncmp(target, "/dev/", 5) == 0) continue;
    tell("descriptor", strncmp(target, "socket:", 7) == 0 ? "socket" : target);
  }
  closedir(dir);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  signal(SIGTERM, on_term);
  char self[16];
  snprintf(self, sizeof self, "%d", getpid());
  long looks = 0;
  puts("ready");
  fflush(stdout);
  while (!stop) {
    DIR *proc = opendir("/proc");
    if (proc == NULL) return 1;
    for (struct dirent *e; (e = readdir(proc)) != NULL;) {
      if (e->d_name[0] < '1' || e->d_name[0] > '9' || strcmp(e->d_name, self) == 0) continue;
      look_at(e->d_name, argv[1]);
      looks++;
    }
    closedir(proc);
  }
  printf("looks %ld\n", looks);
  for (int i = 0; i < told_count; i++) puts(told[i]);
  return 0;
}
