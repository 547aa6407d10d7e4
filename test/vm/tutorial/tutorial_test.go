//go:build linux

package tutorial_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/test/lab"
	"github.com/weft-net/weft/test/vm"
)

// TestTutorial types what the tutorial has, but for the driver: two networks on the VLANs
// of one trunk. On each VLAN is a machine that is no container; the one on the first has an
// address within the range as well.
func TestTutorial(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan", "ipvlan")
	if os.Getenv(vm.EngineVariable) == "" {
		t.Skip("it starts an engine of its own, in a machine of its own: make test-vm")
	}
	h := boot(t)
	m100, m200 := h.machine("100", "10.0.0.1/24", "10.0.0.2/24"), h.machine("200", "192.168.3.1/24")
	h.startEngine()
	before := h.run("ip", "-o", "link")
	frames := h.capture()

	weft := " -d weft:latest --ipam-driver weft:latest -o mode=macvlan"
	h.run("sh", "-c", `docker network create`+weft+` --subnet=10.0.0.0/24 --ip-range=10.0.0.0/25 --gateway=10.0.0.1 -o parent=eth0.100 macvlan100`)
	h.run("sh", "-c", `docker network create`+weft+` --subnet=192.168.3.0/24 --ip-range=192.168.3.64/26 --gateway=192.168.3.1 -o parent=eth0.200 macvlan200`)
	c1, a1 := h.container("mactainer1", "macvlan100", "10.0.0.0/25")
	c2, a2 := h.container("mactainer2", "macvlan100", "10.0.0.0/25")
	c3, a3 := h.container("mactainer3", "macvlan200", "192.168.3.64/26")
	_, a4 := h.container("mactainer4", "macvlan200", "192.168.3.64/26")
	h.run("docker", "container", "exec", "mactainer1", "ping", "-c1", "-W5", a2)
	h.answers(c1, "10.0.0.1", "10.0.0.2")
	h.answers(c2, "10.0.0.1", a1)
	h.answers(c3, "192.168.3.1", a4)
	h.answers(m100, a1, a2)
	h.answers(m200, a3, a4)
	h.silent(c1, "192.168.3.1", a3)
	h.silent(c3, "10.0.0.1", a1)
	h.silent(m100, a3)
	h.silent(m200, a1)
	want := []string{"100 10.0.0.1", "100 10.0.0.2", "100 " + a1, "100 " + a2, "200 192.168.3.1", "200 " + a3, "200 " + a4,
		"100 0.0.0.0", "200 0.0.0.0"} // weft's own questions
	slices.Sort(want)
	if got := frames(); !slices.Equal(got, want) {
		t.Errorf("VLANs and senders of the frames on the trunk are %q, want %q", got, want)
	}

	h.remove("macvlan100", "mactainer1", "mactainer2")
	if have := h.run("ip", "-o", "link", "show", "type", "vlan"); strings.Contains(have, "eth0.100") || !strings.Contains(have, "eth0.200@eth0") {
		t.Errorf("sub-interfaces without macvlan100:\n%s", have)
	}
	h.answers(c3, "192.168.3.1")
	h.remove("macvlan200", "mactainer3", "mactainer4")
	if after := h.run("ip", "-o", "link"); after != before {
		t.Errorf("the host has other devices than before:\n%s\nbefore:\n%s", after, before)
	}
	h.ipvlan(before)
}

// ipvlan is the other kind, with the host among its containers: all reach each other, also
// when weft was away for a moment.
func (h *host) ipvlan(before string) {
	h.Helper()
	h.run("sh", "-c", `docker network create -d weft:latest --ipam-driver weft:latest -o mode=ipvlan -o host_access=true`+
		` --subnet=10.0.0.0/24 --ip-range=10.0.0.128/25 --gateway=10.0.0.1 -o parent=eth0.100 ipvlan100`)
	c1, a1 := h.container("iptainer1", "ipvlan100", "10.0.0.128/25")
	c2, a2 := h.container("iptainer2", "ipvlan100", "10.0.0.128/25")
	own := regexp.MustCompile(`wh-\S+ +inet (\S+)/`).FindStringSubmatch(h.run("ip", "-o", "-4", "addr"))
	if own == nil {
		h.Fatalf("the host has no address among them:\n%s", h.run("ip", "addr"))
	}
	for _, when := range []string{"at first", "after weft was away"} {
		h.Log(when)
		h.answers(c1, "10.0.0.1", a2, own[1])
		h.answers(c2, own[1])
		h.answers("", a1, a2)
		if when == "at first" {
			h.call(http.MethodPost, "/plugins/weft:latest/disable?force=1")
			h.call(http.MethodPost, "/plugins/weft:latest/enable?timeout=30")
		}
	}
	h.remove("ipvlan100", "iptainer1", "iptainer2")
	if after := h.run("ip", "-o", "link"); after != before {
		h.Errorf("the host has other devices than before:\n%s\nbefore:\n%s", after, before)
	}
}

// host is this machine: its card eth0 has a cable to a switch.
type host struct {
	testing.TB
	trunk string // namespace of the other end, e1
}

func boot(t *testing.T) *host {
	t.Helper()
	h := &host{TB: t, trunk: kerneltest.Namespace(t)}
	h.run("ip", "link", "set", "lo", "up")
	h.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "e1", "netns", h.trunk)
	h.run("ip", "link", "set", "eth0", "up")
	kerneltest.Run(t, h.trunk, "ip", "link", "set", "e1", "up")
	return h
}

func (h *host) run(args ...string) string { h.Helper(); return kerneltest.Run(h, "", args...) }

// machine is one more on a VLAN of the trunk.
func (h *host) machine(vlan string, addresses ...string) string {
	h.Helper()
	ns := kerneltest.Namespace(h)
	kerneltest.Run(h, h.trunk, "ip", "link", "add", "link", "e1", "name", "v"+vlan, "netns", ns, "type", "vlan", "id", vlan)
	for _, a := range addresses {
		kerneltest.Run(h, ns, "ip", "addr", "add", a, "dev", "v"+vlan)
	}
	kerneltest.Run(h, ns, "ip", "link", "set", "v"+vlan, "up")
	return ns
}

// startEngine starts it, and weft.
func (h *host) startEngine() {
	h.Helper()
	const logFile = "/var/log/dockerd.log"
	log, err := os.Create(logFile)
	if err == nil {
		err = os.WriteFile("/etc/resolv.conf", nil, 0o644) // a plugin gets the host's
	}
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if h.Failed() {
			text, err := os.ReadFile(logFile)
			h.Logf("the engine's log (%v):\n%s", err, text)
		}
	})
	// An engine gives its own containerd fifteen seconds, which an emulated processor may need.
	if err := os.WriteFile("/run/containerd.toml", []byte(lab.ContainerdConfig), 0o644); err != nil {
		h.Fatal(err)
	}
	const socket = "/run/containerd/containerd.sock"
	h.daemon(log, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return c.Close()
	}, "containerd", "--config", "/run/containerd.toml")
	h.daemon(log, func(ctx context.Context) error {
		_, err := engine(ctx, http.MethodGet, "/_ping")
		return err
	}, "dockerd", "--containerd="+socket)
	h.call(http.MethodPost, "/plugins/weft:latest/enable?timeout=30")
	h.Logf("engine: %s", h.call(http.MethodGet, "/version"))
}

// daemon starts one, waits until it answers, and ends it with the test.
func (h *host) daemon(log *os.File, answers func(ctx context.Context) error, name string, args ...string) {
	h.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(h.Context(), 4*time.Minute)
	defer cancel()
	if err := lab.Until(ctx, name+" to answer", answers); err != nil {
		h.Fatal(err)
	}
}

// engine calls the engine's API. Where what a user types is not the point, this spares the
// start of docker, for which an emulated processor needs seconds.
func engine(ctx context.Context, method, path string) (string, error) {
	api := lab.Dial(func() (string, error) { return "/run/docker.sock", nil })
	defer api.CloseIdleConnections()
	return api.Call(ctx, method, path, nil)
}

// call is engine where a failure ends the test.
func (h *host) call(method, path string) string {
	h.Helper()
	answer, err := engine(h.Context(), method, path)
	if err != nil {
		h.Fatal(err)
	}
	return answer
}

// remove takes containers and then their network away.
func (h *host) remove(network string, containers ...string) {
	h.Helper()
	for _, c := range containers {
		h.call(http.MethodDelete, "/containers/"+c+"?force=1")
	}
	h.call(http.MethodDelete, "/networks/"+network)
}

// container starts one: its sandbox and its address, which is within a range and not that
// of a machine.
func (h *host) container(name, network, within string) (sandbox, address string) {
	h.Helper()
	h.run("docker", "container", "run", "-d", "--name", name, "--network", network, lab.Image, "sleep", "1d")
	var c struct {
		NetworkSettings struct {
			SandboxKey string
			Networks   map[string]struct{ IPAddress string }
		}
	}
	if err := json.Unmarshal([]byte(h.call(http.MethodGet, "/containers/"+name+"/json")), &c); err != nil {
		h.Fatal(err)
	}
	sandbox, address = c.NetworkSettings.SandboxKey, c.NetworkSettings.Networks[network].IPAddress
	if a, err := netip.ParseAddr(address); err != nil || !netip.MustParsePrefix(within).Contains(a) || address == "10.0.0.2" {
		h.Errorf("%s has %q, and others than 10.0.0.2 in %s are for containers (%v)", name, address, within, err)
	}
	return sandbox, address
}

func (h *host) answers(ns string, addresses ...string) {
	h.Helper()
	for _, a := range addresses {
		if !kerneltest.Answers(h, ns, a, 5*time.Second) {
			h.Errorf("%s does not answer in %s:\n%s", a, ns, kerneltest.Run(h, ns, "sh", "-c", "ip -d addr; ip route; ip neigh"))
		}
	}
}

func (h *host) silent(ns string, addresses ...string) {
	h.Helper()
	for _, a := range addresses {
		if kerneltest.Answers(h, ns, a, 500*time.Millisecond) {
			h.Errorf("%s answers in %s", a, ns)
		}
	}
}

// capture begins to listen to the card. The result ends that: the VLAN and the sender of
// each frame with IPv4 or ARP, in order and once each. Without a tag there is no VLAN.
func (h *host) capture() func() []string {
	h.Helper()
	cmd := exec.Command("tcpdump", "-i", "eth0", "-nn", "-e", "-l", "--immediate-mode", "-B", "8192")
	var out strings.Builder
	cmd.Stdout = &out
	words, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.Fatal(err)
	}
	said := bufio.NewScanner(words)
	for said.Scan() && !strings.HasPrefix(said.Text(), "listening on") {
		h.Log(said.Text())
	}
	line := regexp.MustCompile(`(?:vlan (\d+), p \d, )?ethertype (?:IPv4|ARP) \(\S+\),.*?(?: tell |Reply |: |, )(\d+\.\d+\.\d+\.\d+)(?:,| is-at| >)`)
	return func() (seen []string) {
		h.Helper()
		_ = cmd.Process.Signal(unix.SIGINT)
		for said.Scan() { // to its end
			if text := said.Text(); strings.HasSuffix(text, "dropped by kernel") && !strings.HasPrefix(text, "0 ") {
				h.Errorf("tcpdump: %s", text)
			}
		}
		if err := cmd.Wait(); err != nil {
			h.Errorf("tcpdump: %v", err)
		}
		for _, m := range line.FindAllStringSubmatch(out.String(), -1) {
			seen = append(seen, m[1]+" "+m[2])
		}
		slices.Sort(seen)
		return slices.Compact(seen)
	}
}
