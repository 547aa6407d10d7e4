package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// A probe is one attempt to reach a server, and who should answer.
type probe struct {
	// who names the place that asks, in messages.
	who  string
	from asker
	// to is an address with a port, an IPv6 one in brackets, or a name; udp
	// makes it a datagram instead of a connection.
	to  string
	udp bool
	// want is part of the answer; "" means that nobody may answer.
	want string
}

// try asks once.
func (p probe) try() error {
	ask := get
	if p.udp {
		ask = getUDP
	}
	if p.want == "" && !p.udp {
		ask = getSoon
	}
	out, err := ask(p.from, p.to)
	switch {
	case p.want == "" && err == nil && out != "":
		return fmt.Errorf("from %s: %s answered %q", p.who, p.to, out)
	case p.want == "":
		return nil
	case err == nil && !strings.Contains(out, p.want):
		err = fmt.Errorf("the answer is %q", out)
	}
	if err != nil {
		return fmt.Errorf("from %s: %s (udp: %v) should answer %q: %w", p.who, p.to, p.udp, p.want, err)
	}
	return nil
}

// getSoon is get for who is not expected to answer.
func getSoon(from asker, address string) (string, error) {
	return from("timeout", "1.5", "socat", "-T1", "-", "TCP:"+address+",connect-timeout=1,shut-none")
}

// expect makes all probes at once. Who should answer gets time to; the silence
// of the others is checked when everybody who should has answered.
func (s *site) expect(probes ...probe) {
	s.Helper()
	s.atOnce(probes, func(p probe) error {
		if p.want == "" {
			return nil
		}
		return s.soon(p.try)
	})
	s.atOnce(probes, func(p probe) error {
		if p.want != "" {
			return nil
		}
		return p.try()
	})
}

// soon repeats until it succeeds, for ten seconds.
func (s *site) soon(try func() error) error {
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	return lab.Until(ctx, "what should become true", func(context.Context) error { return try() })
}

func (s *site) atOnce(probes []probe, do func(probe) error) {
	s.Helper()
	const most = 24
	slots := make(chan struct{}, most)
	errs := make([]error, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		wg.Go(func() {
			slots <- struct{}{}
			errs[i] = do(p)
			<-slots
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			s.Error(err)
		}
	}
}

// step is a part of a story with a name of its own.
func (s *site) step(name string, do func(s *site)) {
	s.Helper()
	t, ok := s.TB.(*testing.T)
	if !ok {
		s.Fatalf("step %s: a benchmark has no steps", name)
	}
	t.Run(name, func(t *testing.T) { do(s.on(t)) })
}

// inside is the fast way to run commands in the network and the file system of
// a running container: no `docker exec`.
func (s *site) inside(container string) asker {
	s.Helper()
	pid := s.inspect(container, "{{.State.Pid}}")
	return func(args ...string) (string, error) {
		return s.Run(s.Context(), append([]string{"nsenter", "-t", pid, "-n", "-m", "--"}, args...)...)
	}
}

// peer is the address that a server of [site.server] saw.
func peer(answer string) netip.Addr {
	words := strings.Fields(answer)
	if len(words) == 0 {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(strings.Trim(words[len(words)-1], "[]")) // zero if it is none
	return a
}

// sees makes sure that the server sees this client.
func (s *site) sees(who string, from asker, to string, client netip.Addr) {
	s.Helper()
	err := s.soon(func() error {
		out, err := get(from, to)
		if err == nil && peer(out) != client {
			err = fmt.Errorf("from %s: the server at %s saw %q, not %s", who, to, out, client)
		}
		return err
	})
	if err != nil {
		s.Error(err)
	}
}

// outsideServer answers its client's address on a TCP port of the machine outside.
func (s *site) outsideServer(port int) {
	s.Helper()
	for _, family := range []string{"TCP4-LISTEN:%d,fork,reuseaddr", "TCP6-LISTEN:%d,fork,reuseaddr,ipv6only=1"} {
		if _, err := s.out.Background("socat", fmt.Sprintf(family, port), "SYSTEM:echo outside from $SOCAT_PEERADDR"); err != nil {
			s.Fatal(err)
		}
	}
}

// hostPort joins an address of either family and a port.
func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		return fmt.Sprintf("[%s]:%d", host, port)
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// image makes an image from the test image with other settings.
func (s *site) image(name string, changes ...string) {
	s.Helper()
	id := s.docker("create", lab.Image)
	args := []string{"commit"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	s.docker(append(args, id, name)...)
	s.docker("rm", id)
}

// withNameServer tells the engine of [site.nameServer].
func withNameServer(c *siteConfig) { c.host.DaemonJSON = `{"dns": ["10.77.0.200"]}` }

// nameServer is one outside that knows no name: without any, unknown names
// cost many seconds.
func (s *site) nameServer() {
	s.Helper()
	_, err := s.out.Background("perl", "-MIO::Socket::INET", "-e",
		`$s=IO::Socket::INET->new(LocalPort=>53,Proto=>"udp");while($s->recv($b,512)){substr($b,2,2)="\x81\x83";$s->send($b)}`)
	if err != nil {
		s.Fatal(err)
	}
}
