# The application of hello.war in a few lines: every GET counts, only one of .../ready does not.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

$SIG{PIPE} = "IGNORE";
$| = 1;
my $count = 0;
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
my $open = IO::Select->new($server);  # who connects and says nothing holds up nobody
print "listening on port 8080\n";
while (my @ready = $open->can_read) {
    for my $one (@ready) {
        if ($one == $server) {
            my $client = $server->accept;
            $open->add($client) if $client;
            next;
        }
        if ((scalar(<$one>) // "") =~ m{ (\S+) }) {
            my $path = $1;
            while (defined(my $line = <$one>)) { last if $line !~ /\S/ }
            my $body = $path =~ m{/ready$} ? "ok" : $count++;
            print $one "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
        }
        $open->remove($one);
        close $one;
    }
}
