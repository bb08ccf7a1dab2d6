// What the relay process waits in: descriptors, each with the function that is called when something happens to it.
#include "guest.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 128 };

static struct {
  int epoll;
  struct epoll_event batch[BATCH]; // what has happened
  int next, end; // of it: not told yet
} loop;

bool loop_open(void) {
  loop.epoll = epoll_create1(EPOLL_CLOEXEC);
  return loop.epoll >= 0;
}

bool loop_watch(struct source *s, uint32_t events) {
  if (events == s->events) return true;
  // Even with nothing to wait for, epoll tells a hang-up, again and again.
  int what = events == 0 ? EPOLL_CTL_DEL : s->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  struct epoll_event e = {.events = events, .data.ptr = s};
  if (epoll_ctl(loop.epoll, what, s->fd, &e) != 0) return false;
  s->events = events;
  return true;
}

void loop_close(struct source *s) {
  for (int i = loop.next; i < loop.end; i++) {
    if (loop.batch[i].data.ptr == s) loop.batch[i].data.ptr = NULL;
  }
  // Before it is closed: what is open elsewhere as well would go on being told.
  loop_watch(s, 0);
  if (s->fd >= 0) close(s->fd);
  s->fd = -1;
}

void loop_turn(int wait_ms) {
  int count = epoll_wait(loop.epoll, loop.batch, BATCH, wait_ms);
  loop.end = count < 0 ? 0 : count;
  for (loop.next = 0; loop.next < loop.end;) {
    struct epoll_event *e = &loop.batch[loop.next++];
    struct source *s = e->data.ptr;
    if (s != NULL) s->ready(s, e->events);
  }
}
