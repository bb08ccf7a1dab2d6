# Tries every way out of a network namespace, and says what came of each: `name<TAB>outcome`. Arguments: a string that is in
# whatever is sent, the port of a proxy on 127.0.0.1 (0: none), and an expression for the names of those to try (none: all).
use strict; use warnings; no warnings "parenthesis"; use Socket qw(:all); use IO::Socket::IP;
my ($marker, $proxy, $only) = @ARGV;
my ($v4, $server, $v6) = ("203.0.113.80", "203.0.113.53", "2001:db8:dead::80");
my $number = unpack "N", inet_aton($v4);
$| = 1;

my @begun; # all at once: many wait for an answer that never comes
sub attempt { my ($name, $body) = @_; return if defined $only && $name !~ /^(?:$only)$/;
  pipe(my $in, my $out) or die; my $pid = fork;
  if ($pid == 0) { alarm(defined $only ? 2 : 4); my $said = eval { $body->() }; $said = $@ ? "failed: $@" : ($said // "nothing"); $said =~ s/[^ -~]/?/g; print $out substr($said, 0, 200); close $out; require POSIX; POSIX::_exit(0) }
  close $out; push @begun, [$name, $in, $pid]; }
END { for (@begun) { my ($name, $in, $pid) = @$_; my $said = join "", <$in>; waitpid $pid, 0; print "$name\t", length $said ? $said : "silence", "\n"; } $? = 0 }

sub address { my ($host, $port) = @_; $host =~ /:/ ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $host)) : pack_sockaddr_in($port, inet_aton($host)) }
sub stream { my ($host, $port, $bytes, $wait) = @_;
  my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Type => SOCK_STREAM, GetAddrInfoFlags => 0) or die "$!\n";
  syswrite $s, $bytes; shutdown $s, 1 if $wait; my $all = ""; while (sysread $s, my $part, 4096) { $all .= $part } length $all ? $all : "closed" }
sub datagram { my ($host, $port, $bytes, %option) = @_;
  socket my $s, $host =~ /:/ ? AF_INET6 : AF_INET, SOCK_DGRAM, $option{protocol} // 0 or die "$!\n";
  setsockopt $s, SOL_SOCKET, SO_BROADCAST, 1; connect $s, address($host, $port) or die "$!\n"; send $s, $bytes, 0 or die "$!\n";
  sysread($s, my $answer, 999) or die "$!\n"; $answer }
sub query { my ($name, $type) = @_; pack("n6", 7, 256, 1, 0, 0, 0) . join("", map { pack "C/a", $_ } split /\./, $name) . pack("Cnn", 0, $type, 1) }
sub hello { my ($name) = @_; my $sni = pack "nn/a", 0, pack "n/a", pack "Cn/a", 0, $name;
  my $body = pack("n", 0x303) . ("r" x 32) . "\0" . pack("n/a", "\x13\x01") . "\1\0" . pack("n/a", $sni);
  pack "Cnn/a", 22, 0x301, pack("CCn/a", 1, 0, $body) }
sub checksum { my $sum = 0; $sum += $_ for unpack "n*", $_[0] . "\0"; $sum = ($sum >> 16) + ($sum & 0xffff) while $sum >> 16; ~$sum & 0xffff }
sub echo { my $bare = pack("CCnnn", 8, 0, 0, 1, 1) . $marker; substr($bare, 2, 2) = pack "n", checksum($bare); $bare }
sub raw { my ($family, $type, $protocol, $to, $bytes) = @_; socket my $s, $family, $type, $protocol or die "$!\n";
  send $s, $bytes, 0, $to or die "$!\n"; sysread $s, my $answer, 999; "sent" }
sub ask { my ($text) = @_; $proxy or die "no proxy\n"; stream("127.0.0.1", $proxy, $text, 0) =~ /^(?:HTTP\/1.1 )?(.{0,150})/s; $1 }
my $end = "Connection: close\r\n\r\n";

attempt("tcp $_", do { my $port = $_; sub { stream($v4, $port, $marker) } }) for 22, 80, 443, 853, 8080;
attempt("tcp ipv6", sub { stream($v6, 443, $marker) });
attempt("tcp mapped ipv6", sub { stream("::ffff:$v4", 443, $marker) });
attempt("tcp metadata", sub { stream("169.254.169.254", 80, "GET /$marker HTTP/1.1\r\nHost: 169.254.169.254\r\n$end") });
attempt("tcp bound to a device", sub { socket my $s, AF_INET, SOCK_STREAM, 0; setsockopt $s, SOL_SOCKET, 25, "eth0\0" or die "$!\n"; connect $s, address($v4, 80) or die "$!\n"; "connected" });
attempt("tcp fast open", sub { socket my $s, AF_INET, SOCK_STREAM, 0; send $s, $marker, 0x20000000, address($v4, 80) or die "$!\n"; my $answer = ""; sysread($s, $answer, 99); $answer || "closed" });
attempt("udp $_", do { my $port = $_; sub { datagram($v4, $port, $marker) } }) for 123, 443, 9999;
attempt("udp ipv6", sub { datagram($v6, 9999, $marker) });
attempt("udp broadcast", sub { datagram("255.255.255.255", 9999, $marker) });
attempt("udp multicast", sub { datagram("224.0.0.251", 5353, query("$marker.local", 1)) });
attempt("udp multicast ipv6", sub { datagram("ff02::fb", 5353, query("$marker.local", 1)) });
attempt("udplite", sub { datagram($v4, 53, $marker, protocol => 136) });
attempt("sctp", sub { socket my $s, AF_INET, SOCK_STREAM, 132 or die "$!\n"; connect $s, address($v4, 80) or die "$!\n"; "connected" });
attempt("dns udp to $_", do { my $host = $_; sub { datagram($host, 53, query("udp-$marker.tunnel.example", 1)) } }) for $server, "8.8.8.8", "127.0.0.53";
attempt("dns udp txt", sub { datagram($server, 53, query("txt-$marker.tunnel.example", 16)) });
attempt("dns udp ipv6", sub { datagram("2001:db8:dead::53", 53, query("six-$marker.tunnel.example", 28)) });
attempt("dns tcp", sub { stream($server, 53, pack("n/a", query("tcp-$marker.tunnel.example", 1)), 1) });
attempt("dns over tls", sub { stream($server, 853, hello("dot-$marker.example")) });
attempt("dns over https", sub { stream($server, 443, hello("doh-$marker.example")) });
attempt("looking a name up", sub { my @all = gethostbyname("libc-$marker.lookup.example"); @all ? inet_ntoa($all[4]) : die "no such name\n" });
attempt("connecting to a name", sub { stream("name-$marker.lookup.example", 443, hello("name-$marker.lookup.example")) });
attempt("another sni", sub { stream("sni-$marker.lookup.example", 443, hello("other-$marker.example")) });
attempt("another host", sub { stream("host-$marker.lookup.example", 80, "GET / HTTP/1.1\r\nHost: other-$marker.example\r\n$end") });
attempt("icmp raw", sub { raw(AF_INET, SOCK_RAW, 1, address($v4, 0), echo()) });
attempt("icmp datagram", sub { raw(AF_INET, SOCK_DGRAM, 1, address($v4, 0), echo()) });
attempt("icmp ipv6", sub { raw(AF_INET6, SOCK_RAW, 58, address($v6, 0), pack("CCnnn", 128, 0, 0, 1, 1) . $marker) });
attempt("ip raw", sub { raw(AF_INET, SOCK_RAW, 253, address($v4, 0), $marker) });
attempt("packet socket", sub { socket my $s, 17, SOCK_DGRAM, 8 or die "$!\n"; my $sent = 0;
  for my $index (1 .. 64) { $sent++ if send $s, "E$marker", 0, pack("Sn i S C C a8", 17, 0x800, $index, 1, 0, 6, "\xff" x 6) } $sent ? "sent" : die "$!\n" });
attempt("proxy absolute", sub { ask("GET http://abs-$marker.example/ HTTP/1.1\r\nHost: abs-$marker.example\r\n$end") });
attempt("proxy address $_", do { my $host = $_; sub { ask("GET http://$host/$marker HTTP/1.1\r\nHost: $host\r\n$end") } })
  for $v4, "$v4.", $number, sprintf("0x%x", $number), sprintf("0%o", $number), "0313.0.0161.0120", "203.28880", "[$v6]", "[::ffff:$v4]";
attempt("proxy name $_", do { my $host = $_; sub { ask("GET http://$host/ HTTP/1.1\r\nHost: $host\r\n$end") } })
  for "dot-$marker.example.", "dots-$marker.example..", "xn--mnchen-3ya-$marker.example", "m\xc3\xbcnchen-$marker.example", "UPPER-$marker.EXAMPLE", "null-$marker.example%00.org", "user\@at-$marker.example";
attempt("proxy other host", sub { ask("GET http://a-$marker.example/ HTTP/1.1\r\nHost: b-$marker.example\r\n$end") });
attempt("proxy connect", sub { ask("CONNECT connect-$marker.example:443 HTTP/1.1\r\nHost: connect-$marker.example:443\r\n\r\n" . hello("connect-$marker.example")) });
attempt("proxy connect address", sub { ask("CONNECT $v4:443 HTTP/1.1\r\nHost: $v4:443\r\n\r\n" . hello("x-$marker.example")) });
attempt("proxy smuggled behind connect", sub { ask("CONNECT $v4:80 HTTP/1.1\r\nHost: $v4:80\r\nContent-Length: 3\r\n\r\nabcGET http://smuggled-$marker.example/ HTTP/1.1\r\nHost: smuggled-$marker.example\r\n$end") });
attempt("proxy two lengths", sub { ask("POST http://cl-$marker.example/ HTTP/1.1\r\nHost: cl-$marker.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://te-$marker.example/ HTTP/1.1\r\nHost: te-$marker.example\r\n$end") });
attempt("proxy two hosts", sub { ask("GET http://h1-$marker.example/ HTTP/1.1\r\nHost: h1-$marker.example\r\nHost: h2-$marker.example\r\n$end") });
attempt("proxy without lines' ends", sub { ask("GET http://lf-$marker.example/ HTTP/1.1\nHost: lf-$marker.example\nConnection: close\n\n") });
attempt("socks name", sub { ask("\5\1\0" . pack("CCCC C/a n", 5, 1, 0, 3, "socks-$marker.example", 443)) });
attempt("socks address", sub { ask("\5\1\0" . pack("CCCC a4 n", 5, 1, 0, 1, inet_aton($v4), 80)) });
attempt("socks udp", sub { ask("\5\1\0" . pack("CCCC a4 n", 5, 3, 0, 1, inet_aton($v4), 53)) });
