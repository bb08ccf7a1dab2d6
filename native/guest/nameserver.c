// Where queries of programs inside arrive, in the relay's process; dns.c answers them.
#include "capture.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  TURNS = 64, // queries, or connections, in one go, before anything else is looked at
  MOST_CONNECTIONS = 64, // by TCP; the one that was silent for the longest time makes room for the next
  MAX_QUERY = 4096, // no query is that long, and who sends one gets no answer
  LENGTH = 2, // RFC 1035, 4.2.2
};

// ---- UDP

/// Queries come with the address that they were sent to, and answers go out from there.
union address_info {
  struct cmsghdr align;
  unsigned char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

/// Makes the sender's notice of where a query went into ours of where its answer comes from.
static void turn_round(struct msghdr *m) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level == SOL_IP && c->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      info = (struct in_pktinfo){.ipi_spec_dst = info.ipi_addr};
      memcpy(CMSG_DATA(c), &info, sizeof info);
      return;
    }
    if (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_PKTINFO) return;
  }
}

static void on_query(struct source *s, uint32_t events) {
  (void)events;
  for (int i = 0; i < TURNS; i++) {
    unsigned char query[MAX_QUERY], answer[MAX_ANSWER];
    union address_info info;
    struct sockaddr_storage peer;
    struct iovec part = {query, sizeof query};
    struct msghdr m = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &part, .msg_iovlen = 1,
                       .msg_control = info.bytes, .msg_controllen = sizeof info.bytes};
    ssize_t n = recvmsg(s->fd, &m, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0 || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) continue;
    part = (struct iovec){answer, dns_answer(query, (size_t)n, answer)};
    if (part.iov_len == 0) continue;
    turn_round(&m);
    // One that does not get through is asked for again.
    sendmsg(s->fd, &m, MSG_DONTWAIT);
  }
}

// ---- TCP

static struct connection {
  struct source source; // fd -1: free
  uint64_t last; // turn in which it said something
  size_t have;
  unsigned char bytes[LENGTH + MAX_QUERY];
} connections[MOST_CONNECTIONS];
static uint64_t turns;

static void end_connection(struct connection *c) {
  loop_close(&c->source);
  c->have = 0;
}

/// Answers what is there whole. False: the connection ends.
static bool answer_all(struct connection *c) {
  for (;;) {
    size_t bytes = c->have < LENGTH ? 0 : (size_t)c->bytes[0] << 8 | c->bytes[1];
    if (bytes > MAX_QUERY) return false;
    if (c->have < LENGTH + bytes || c->have < LENGTH) return true;
    unsigned char answer[LENGTH + MAX_ANSWER];
    size_t length = dns_answer(c->bytes + LENGTH, bytes, answer + LENGTH);
    answer[0] = (unsigned char)(length >> 8);
    answer[1] = (unsigned char)length;
    // Who does not take an answer has no more questions.
    if (length == 0 || send(c->source.fd, answer, LENGTH + length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)(LENGTH + length))
      return false;
    c->have -= LENGTH + bytes;
    memmove(c->bytes, c->bytes + LENGTH + bytes, c->have);
  }
}

static void on_bytes(struct source *s, uint32_t events) {
  struct connection *c = (struct connection *)s;
  (void)events;
  c->last = ++turns;
  ssize_t n = recv(s->fd, c->bytes + c->have, sizeof c->bytes - c->have, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) c->have += (size_t)n;
  if (n <= 0 || !answer_all(c)) end_connection(c);
}

static struct connection *free_connection(void) {
  struct connection *oldest = &connections[0];
  for (size_t i = 0; i < MOST_CONNECTIONS; i++) {
    if (connections[i].source.fd < 0) return &connections[i];
    if (connections[i].last < oldest->last) oldest = &connections[i];
  }
  end_connection(oldest);
  return oldest;
}

static void on_client(struct source *s, uint32_t events) {
  (void)events;
  for (int i = 0; i < TURNS; i++) {
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && errno == EAGAIN) return;
    if (fd < 0) continue;
    struct connection *c = free_connection();
    c->source = (struct source){.fd = fd, .ready = on_bytes};
    c->last = ++turns;
    if (!loop_watch(&c->source, EPOLLIN)) end_connection(c);
  }
}

bool nameserver_open(void) {
  static struct source udp[2], tcp;
  for (size_t i = 0; i < MOST_CONNECTIONS; i++) connections[i].source.fd = -1;
  tcp = (struct source){.fd = FD_DNS_TCP, .ready = on_client};
  if (!loop_watch(&tcp, EPOLLIN)) return false;
  for (int i = 0; i < 2; i++) {
    udp[i] = (struct source){.fd = FD_DNS_UDP + i, .ready = on_query};
    // There is no IPv6 everywhere.
    if (!loop_watch(&udp[i], EPOLLIN) && (i == 0 || errno != EBADF)) return false;
  }
  return true;
}
