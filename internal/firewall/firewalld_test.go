package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// A bus is a D-Bus of its own, with firewalld on it or not.
type bus struct {
	address, etc string
	host         namespace
	log          bytes.Buffer
	firewalld    *exec.Cmd
}

// newBus starts a D-Bus; firewalld is to work in the namespace.
func newBus(t *testing.T, host namespace) *bus {
	t.Helper()
	dir := t.TempDir()
	b := &bus{address: "unix:path=" + dir + "/bus", etc: dir + "/etc", host: host}
	config := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
		<busconfig><type>system</type><listen>` + b.address + `</listen><auth>EXTERNAL</auth><policy context="default">
		<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>`
	if err := errors.Join(os.WriteFile(dir+"/bus.conf", []byte(config), 0o644), os.CopyFS(b.etc, os.DirFS("/etc/firewalld"))); err != nil {
		t.Fatal("needs firewalld (make test installs it): ", err)
	}
	b.run(t, "dbus-daemon", "--nofork", "--nopidfile", "--config-file="+dir+"/bus.conf")
	b.wait(t, "the bus", func() bool { _, err := os.Stat(dir + "/bus"); return err == nil })
	return b
}

// run runs a program in the namespace until the test ends.
func (b *bus) run(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatal("needs firewalld and dbus-daemon (make test installs them): ", err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.address)
	if program == "firewalld" {
		cmd.Stdout, cmd.Stderr = &b.log, &b.log
	}
	if err := b.host.do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func (b *bus) wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s in time\n%s", what, b.log.String())
		}
	}
}

// start starts firewalld and waits until it answers.
func (b *bus) start(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll("/run/firewalld", 0o750); err != nil { // of two that make it, one ends
		t.Fatal(err)
	}
	b.firewalld = b.run(t, "firewalld", "--nofork", "--nopid", "--system-config", b.etc, "--log-target", "console")
	conn := b.dial(t)
	b.wait(t, "firewalld", func() bool {
		d := daemon{conn: conn, life: context.Background()}
		return d.runs() && d.call(mainObject, "getDefaultZone").Err == nil
	})
}

func (b *bus) stop(t *testing.T) {
	t.Helper()
	if err := b.firewalld.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = b.firewalld.Wait()
	if rules := b.host.sh(t, "nft list tables; iptables-save"); strings.Contains(strings.ToLower(rules), "firewalld") || strings.Contains(rules, "public") {
		t.Errorf("firewalld left its rules:\n%s", rules)
	}
}

func (b *bus) dial(t *testing.T) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(b.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// cmd is firewall-cmd.
func (b *bus) cmd(t *testing.T, args string) string {
	t.Helper()
	return strings.TrimSpace(b.host.sh(t, "DBUS_SYSTEM_BUS_ADDRESS="+b.address+" firewall-cmd "+args))
}

// guard makes firewalld the zone manager of a firewall.
func (b *bus) guard(fw *NFT) *Firewalld {
	f := NewFirewalld(b.address, nil)
	fw.config.Zones = f
	return f
}

// mendOnHints mends on hints, and returns a way to wait until the bridges weft0 and weft1
// are in their zone. What Mend says is no proof: on a busy machine firewalld does what it
// was asked for after weft has given up waiting for the answer.
func (b *bus) mendOnHints(t *testing.T, fw *NFT) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for range fw.Watch(ctx) {
			if _, err := fw.Mend(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("Mend: %v", err)
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() { t.Helper(); b.awaitMembers(t, "weft0 weft1") }
}

// awaitMembers waits until weft's zone has these interfaces.
func (b *bus) awaitMembers(t *testing.T, want string) {
	t.Helper()
	members := ""
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		if members = b.cmd(t, "--zone=weft --list-interfaces 2>&1 || :"); members == want {
			return
		}
	}
	t.Fatalf("%s do not come into their zone: %s", want, members)
}

// TestFirewalld sends packets past a real firewalld, with bridged packets passing
// its rules too, before and after everything that takes bridges out of a zone.
func TestFirewalld(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			testFirewalld(t, backend)
		})
	}
}

func testFirewalld(t *testing.T, backend string) {
	l := newLab(t, true)
	b := newBus(t, l.host)
	l.host.sh(t, "sed -i s/^FirewallBackend=.*/FirewallBackend="+backend+"/ "+b.etc+"/firewalld.conf")
	ctx := testContext(t)
	b.start(t)
	l.publish(t, weft0(), weft1())
	// What firewalld does to a bridge in no zone: the test would notice. Its rules
	// by iptables are the ones that weft passes by its jump.
	if backend == "nftables" {
		l.check(t, []call{{"a1", "tcp", outV4 + ":8080", ""}, {"a1", "tcp", "10.1.0.3:8080", ""}})
	}
	back := NewFirewalld(b.address, nil)
	l.fw.config.Zones = back
	joined := b.mendOnHints(t, l.fw)
	joined()
	l.check(t, natCalls())
	if s := l.fw.Status(ctx); !strings.Contains(s.Zones, "in zone weft") {
		t.Errorf("state %q", s.Zones)
	}
	b.cmd(t, "--reload")
	joined()
	l.check(t, natCalls())
	b.stop(t)
	b.start(t)
	joined()
	l.check(t, natCalls())
	// Without translation it takes the policy to get in.
	routed := weft0()
	routed.IPv4[0].Mode, routed.IPv6[0].Mode = ModeRouted, ModeRouted
	l.publish(t, routed)
	l.check(t, []call{
		{"out", "tcp", "10.1.0.2:8080", outV4},
		{"out", "udp", "[fd00:1:0::2]:8080", outV6},
		{"out", "tcp", "10.1.0.3:8080", ""},
		{"a2", "tcp", outV4 + ":8080", "10.1.0.3"},
	})
	for _, id := range []string{"n0", "n1"} {
		if err := l.fw.RemoveNetwork(ctx, id); err != nil {
			t.Error(err)
		}
	}
	if got := b.cmd(t, "--zone=weft --list-interfaces"); got != "" {
		t.Errorf("without networks zone weft has %q", got)
	}
	for range 2 {
		if err := l.fw.Reset(ctx); err != nil {
			t.Error(err)
		}
	}
	if zones := b.cmd(t, "--permanent --get-zones") + b.cmd(t, "--permanent --get-policies"); strings.Contains(zones, "weft") {
		t.Errorf("Reset left %s", zones)
	}
	if left, _ := filepath.Glob(b.etc + "/*/weft*.xml"); len(left) != 0 {
		t.Errorf("Reset left %q", left)
	}
	// The first network makes the zone anew, and is in it when it is made, or soon after if
	// firewalld takes its time to load it.
	b.cmd(t, "--reload")
	if err := l.fw.AddNetwork(ctx, weft0()); err != nil {
		t.Error(err)
	}
	b.awaitMembers(t, "weft0")
}

// TestFirewalldOfTheOperator checks that weft takes a zone that is there as it
// is, leaves a bridge where its owner put it, and reports refusals.
func TestFirewalldOfTheOperator(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	b := newBus(t, ns)
	ctx := testContext(t)
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(b.etc+"/"+file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("zones/weft.xml", `<zone target="ACCEPT"><short>mine</short></zone>`)
	write("zones/internal.xml", `<zone><interface name="weft1"/></zone>`)
	b.start(t)
	fw := newNFT(t, ns)
	b.guard(fw)
	for _, n := range []Network{weft0(), weft1(), weft0()} {
		if err := fw.AddNetwork(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.cmd(t, "--zone=weft --list-interfaces"); got != "weft0" {
		t.Errorf("zone weft has %q, want weft0", got)
	}
	if err := fw.Reset(ctx); err != nil {
		t.Error(err)
	}
	if zones := b.cmd(t, "--permanent --get-zones"); !strings.Contains(zones, "weft") {
		t.Errorf("Reset removed the operator's zone: %s", zones)
	}
	if got := b.cmd(t, "--zone=weft --list-interfaces"); got != "" {
		t.Errorf("after Reset zone weft has %q", got)
	}
	// Nobody may do anything, root included.
	b.cmd(t, "--lockdown-on")
	b.cmd(t, "--remove-lockdown-whitelist-uid=0")
	err := fw.AddNetwork(ctx, network("n2", "weft2", "10.1.2.0/24", "fd00:1:2::/64"))
	if !errors.Is(err, ErrFirewalld) || !strings.Contains(err.Error(), "ACCESS_DENIED") {
		t.Errorf("AddNetwork under lockdown: %v, want %v", err, ErrFirewalld)
	}
	if s := fw.Status(ctx); s.Networks != 0 || !strings.Contains(s.Zones, "refused") {
		t.Errorf("after a refusal: %+v", s)
	}
}

// TestNoFirewalld checks that a host without firewalld, or with one that hangs,
// has its networks, and soon.
func TestNoFirewalld(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	b := newBus(t, ns)
	ctx := testContext(t)
	fw := newNFT(t, ns)
	add := func(what, state string, limit time.Duration) {
		t.Helper()
		start := time.Now()
		for _, n := range []Network{weft0(), weft1()} {
			if err := fw.AddNetwork(ctx, n); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, id := range []string{"n0", "n1"} {
			if err := fw.RemoveNetwork(ctx, id); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if took := time.Since(start); took > limit {
			t.Errorf("%s: took %v", what, took)
		}
		if got := fw.Status(ctx).Zones; !strings.Contains(got, state) || state == "" && got != "" {
			t.Errorf("%s: state %q, want %q", what, got, state)
		}
	}
	fw.config.Zones = NewFirewalld("unix:path=/nonexistent/bus", nil)
	add("no bus", "", 2*time.Second)
	b.guard(fw)
	add("no firewalld", "", 2*time.Second)
	// The name is taken, and nobody answers.
	conn := b.dial(t)
	if _, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	hang := func(string) *dbus.Error { <-stuck; return nil }
	hang2 := func(string, string) *dbus.Error { <-stuck; return nil }
	if err := conn.ExportMethodTable(map[string]any{"getInterfaces": hang, "removeInterface": hang2}, mainObject, busName+".zone"); err != nil {
		t.Fatal(err)
	}
	add("firewalld hangs", fmt.Sprintf("no answer within %v", zoneTimeout), 4*zoneTimeout+2*time.Second)
}
