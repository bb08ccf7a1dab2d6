// bomb fork | threads | memory | flood [MIB] | fill DIR | inodes DIR: takes all of something. Prints how far it came, where that
// can be told, and keeps what it took until it is killed when the last argument is `hold`.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *sleep_for_ever(void *nothing) {
  for (;;) pause();
  return nothing;
}

_Noreturn static void fork_bomb(void) {
  // Each child goes on forking: what ends this is the limit.
  puts("ready");
  fflush(stdout);
  for (;;) {
    if (fork() < 0) usleep(1000);
  }
}

static int thread_bomb(void) {
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 16384);
  long made = 0;
  while (pthread_create(&thread, &attributes, sleep_for_ever, NULL) == 0) made++;
  printf("threads %ld\n", made);
  fflush(stdout);
  return 0;
}

static int take_memory(void) {
  for (size_t chunk = 4 << 20;;) {
    char *at = mmap(NULL, chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return 9;
    memset(at, 1, chunk);
  }
}

static int flood(long mib) {
  static char bytes[65536];
  memset(bytes, 'x', sizeof bytes);
  for (long i = 0; mib == 0 || i < 16 * mib; i++) {
    if (write(1, bytes, sizeof bytes) <= 0) break;
  }
  return 0;
}

static int fill(const char *dir, int with_data) {
  static char bytes[1 << 20];
  char path[512];
  long count = 0;
  for (;; count++) {
    snprintf(path, sizeof path, "%s/%ld", dir, count);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || (with_data && write(fd, bytes, sizeof bytes) != (ssize_t)sizeof bytes)) break;
    close(fd);
  }
  printf("files %ld until E%d\n", count, errno);
  fflush(stdout);
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  int result = 2;
  if (strcmp(argv[1], "fork") == 0) fork_bomb();
  else if (strcmp(argv[1], "threads") == 0) result = thread_bomb();
  else if (strcmp(argv[1], "memory") == 0) result = take_memory();
  else if (strcmp(argv[1], "flood") == 0) result = flood(argc > 2 ? atol(argv[2]) : 0);
  else if (strcmp(argv[1], "fill") == 0 && argc > 2) result = fill(argv[2], 1);
  else if (strcmp(argv[1], "inodes") == 0 && argc > 2) result = fill(argv[2], 0);
  if (strcmp(argv[argc - 1], "hold") == 0) {
    for (;;) pause();
  }
  return result;
}
