package names

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// client runs a program of the container: in its namespace, with a resolv.conf that
// names 127.0.0.11.
func client(t *testing.T, s *site, command string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.11\noptions ndots:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := "mount --bind " + conf + " /etc/resolv.conf && exec nsenter --net=" + s.path + " " + command
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "unshare", "-m", "sh", "-c", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func attendedSite(t *testing.T) *site {
	t.Helper()
	site := newSite(t, "legacy")
	book := NewBook()
	book.SetNetwork(Network{ID: "n1", Name: "mynet", Endpoints: []Endpoint{
		{Host: "h2", ID: "e2", Names: []string{"redis", "my_db"}, Addrs: addrs("10.0.0.3")},
		{Host: "h2", ID: "e3", Names: []string{"both"}, Addrs: addrs("10.0.0.4", "fd00::4")},
		{Host: "h2", ID: "e4", Names: []string{"twice"}, Addrs: addrs("10.0.0.5")},
		{Host: "h3", ID: "e4", Names: []string{"twice"}, Addrs: addrs("10.0.0.6")},
	}})
	for i := range 100 {
		e := Endpoint{Host: "h4", ID: string(rune('0' + i)), Names: []string{"many"}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}}
		book.SetEndpoints("n1", e)
	}
	service := serviceOf(t, book, false)
	service.Attend(container(site))
	serving(t, service, 1)
	return site
}

// resolved is what each client must find; "" is nothing.
func resolved() map[string][]string {
	return map[string][]string{
		"redis":       {"10.0.0.3"},
		"REDIS":       {"10.0.0.3"},
		"redis.":      {"10.0.0.3"},
		"redis.mynet": {"10.0.0.3"},
		"my_db":       {"10.0.0.3"},
		"both":        {"10.0.0.4", "fd00::4"},
		"twice":       {"10.0.0.5", "10.0.0.6"},
		"local":       {"10.0.0.2"},
		"nobody.test": nil,
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

func TestGlibc(t *testing.T) {
	t.Parallel()
	site := attendedSite(t)
	for name, want := range resolved() {
		out, err := client(t, site, "getent ahosts "+name)
		var got []string
		for line := range strings.Lines(out) {
			got = append(got, strings.Fields(line)[0])
		}
		if (err == nil) != (want != nil) || !slices.Equal(sorted(got), want) {
			t.Errorf("%s: %q, %v, want %v", name, out, err, want)
		}
	}
	// More than fits: glibc asks again by TCP.
	if out, err := client(t, site, "getent ahosts many"); err != nil || strings.Count(out, "STREAM") != 100 {
		t.Errorf("100 addresses: %d, %v", strings.Count(out, "STREAM"), err)
	}
	if out, err := client(t, site, "getent hosts 10.0.0.3"); err != nil || !strings.Contains(out, "redis.mynet") {
		t.Errorf("the name of 10.0.0.3: %q, %v", out, err)
	}
}

func TestGo(t *testing.T) {
	t.Parallel()
	site := attendedSite(t)
	r := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		if strings.HasPrefix(network, "tcp") {
			return site.DialTCP(dialingResolver(), 5*time.Second)
		}
		return site.DialUDP(dialingResolver())
	}}
	for name, want := range resolved() {
		got, err := r.LookupHost(t.Context(), strings.TrimSuffix(name, ".")+".")
		if (err == nil) != (want != nil) || !slices.Equal(sorted(got), want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	if got, err := r.LookupHost(t.Context(), "many."); err != nil || len(got) != 100 {
		t.Errorf("100 addresses: %d, %v", len(got), err)
	}
	if got, err := r.LookupAddr(t.Context(), "10.0.0.3"); err != nil || !slices.Equal(got, []string{"redis.mynet."}) {
		t.Errorf("the name of 10.0.0.3: %v, %v", got, err)
	}
	// A large text by way of the engine: truncated, then by TCP.
	if got, err := r.LookupTXT(t.Context(), "big."); err != nil || len(strings.Join(got, "")) != 3000 {
		t.Errorf("a large text: %d octets, %v", len(strings.Join(got, "")), err)
	}
}

func TestMusl(t *testing.T) {
	t.Parallel()
	compiler, err := exec.LookPath("musl-gcc")
	if err != nil {
		t.Fatal("musl-gcc is not here: install musl-tools, as make test does")
	}
	program := filepath.Join(t.TempDir(), "ahosts")
	cmd := exec.CommandContext(t.Context(), compiler, "-static", "-o", program, "testdata/ahosts.c")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	site := attendedSite(t)
	for name, want := range resolved() {
		out, err := client(t, site, program+" "+name)
		if (err == nil) != (want != nil) || err == nil && !slices.Equal(sorted(strings.Fields(out)), want) {
			t.Errorf("%s: %q, %v, want %v", name, out, err, want)
		}
	}
	// It takes what fits into one reply by UDP, or all by TCP if it is new enough.
	if out, err := client(t, site, program+" many"); err != nil || len(strings.Fields(out)) < 20 {
		t.Errorf("100 addresses: %q, %v", out, err)
	}
}

// TestTurnsOfPairs: clients ask for both families at once, and each address comes first now
// and then all the same.
func TestTurnsOfPairs(t *testing.T) {
	t.Parallel()
	site := attendedSite(t)
	c, err := site.DialUDP(dialingResolver())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange := func(kind dnsmessage.Type) string {
		if _, err := c.Write(ask(t, "twice.", kind, 0)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 512)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(answersOf(t, unpack(t, buf[:n]), "twice.", remoteTTL), " ")
		return first
	}
	first := map[string]int{}
	for range 100 {
		first[exchange(dnsmessage.TypeA)]++
		exchange(dnsmessage.TypeAAAA)
	}
	if first["10.0.0.5"] < 20 || first["10.0.0.6"] < 20 {
		t.Errorf("first answers: %v", first)
	}
}
