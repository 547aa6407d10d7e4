package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// TestService runs the binary on the legacy socket, as the systemd unit does:
// with the unit's capabilities, and a socket that takes notifications.
func TestService(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.must(s.CopyIn(s.Context(), "../../build/weft-"+goarch(s.TB), "/usr/bin/weft"))
		before := s.hostState()
		weft := s.service()
		s.docker("network", "create", "-d", "weft", "-o", "publish=native", "--ipam-driver", "weft", "--subnet", "10.92.0.0/24", "nat")
		s.docker("network", "create", "-d", "weft", "--subnet", "10.91.0.0/24", "pub")
		s.echo("alfa", "--network", "nat", "-p", "8001:80", "-p", "9001:7", "--restart", "always")
		s.echo("bravo", "--network", "pub", "--ip", "10.91.0.50", "-p", "8002:80", "-p", "9002:7")
		s.echo("carla", "--network", "nat")
		open := func(s *site) {
			s.answers(s.fromOutside(), hostPort(s.IPv4.String(), 8001), "alfa")
			s.answers(s.fromOutside(), hostPort(s.IPv4.String(), 8002), "bravo")
			s.answers(s.inside("carla"), "alfa:80", "alfa")
		}
		open(s)
		s.step("killed", func(s *site) {
			beats := []*beat{s.beat("outside", s.IPv4.String(), 9001), s.beat("carla", s.ip("alfa", "nat"), 7), s.control()}
			s.alive(beats...)
			known := s.memory()
			weft.Stop()
			s.alive(beats...)
			open(s)
			weft = s.service()
			if err := same(known, s.memory()); err != nil {
				s.Errorf("weft forgot: %v", err)
			}
			s.unharmed(beats...)
			open(s)
			stopBeats(beats)
		})
		s.step("engine restarted", func(s *site) {
			s.endsEngine()
			took, err := s.StartEngine(s.Context())
			s.backInTime("restart", took, err)
			s.wakeUp("bravo", "carla")
			open(s)
		})
		s.step("engine killed", func(s *site) {
			// The engine clears up before it knows legacy plugins: nobody tells
			// weft that the endpoints are gone.
			s.must(s.KillEngine(s.Context()))
			took, err := s.StartEngine(s.Context())
			s.backInTime("start after a kill", took, err)
			s.wakeUp("bravo", "carla")
			if n := len(weftJSON[[]admin.Endpoint](s, "endpoints")); n != 3 {
				s.Errorf("weft has %d endpoints for 3 containers", n)
			}
			open(s)
		})
		s.step("nothing left", func(s *site) {
			s.clear("nat", "pub")
			s.eventually("the host as before", func() error { return same(sorted(before), sorted(s.hostState())) })
			s.forgotten()
		})
	}, func(c *siteConfig) { c.noPlugin = true })
}

// wakeUp starts containers, and waits for alfa, which the engine starts.
func (s *site) wakeUp(names ...string) {
	s.Helper()
	s.comesBack("alfa to run again", func() error {
		if state := s.inspect("alfa", "{{.State.Status}}"); state != "running" {
			return fmt.Errorf("it is %s: %s", state, s.inspect("alfa", "{{.State.Error}}"))
		}
		return nil
	})
	for _, name := range names {
		s.quick("start", name)
	}
}

const notifyScript = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
path = "/run/notify"
if os.path.exists(path): os.unlink(path)
s.bind(path)
os.environ["NOTIFY_SOCKET"] = path
pid = os.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
print(s.recv(99).decode(), flush=True)
os.waitpid(pid, 0)
`

// service starts weft with no more rights than the unit gives it and waits for
// READY=1.
func (s *site) service() *lab.Process {
	s.Helper()
	return s.serviceWith(nil)
}

// serviceWith is service with settings, and with flags of the daemon.
func (s *site) serviceWith(settings []string, flags ...string) *lab.Process {
	s.Helper()
	bounds := "-all"
	for c := range strings.FieldsSeq(s.unit()["CapabilityBoundingSet"]) {
		bounds += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	args := append([]string{"env"}, settings...)
	args = append(args, "python3", "-c", notifyScript, "setpriv", "--bounding-set="+bounds, "--no-new-privs", "weft", "serve")
	p, err := s.Background(append(args, flags...)...)
	if err != nil {
		s.Fatal(err)
	}
	begin := time.Now()
	s.eventually("READY=1 of the service", func() error {
		if !strings.Contains(p.Output(), "READY=1") {
			return fmt.Errorf("it wrote %q", tail(p.Output(), 20))
		}
		return nil
	})
	s.inTime("weft's readiness", time.Since(begin), patience)
	if st := weftJSON[admin.Status](s, "status"); st.HostID == "" {
		s.Errorf("weft status: %s", asText(st))
	}
	return p
}

// unit reads the settings of packaging/systemd/weft.service.
func (s *site) unit() map[string]string {
	s.Helper()
	text, err := os.ReadFile("../../packaging/systemd/weft.service")
	if err != nil {
		s.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			out[key] = value
		}
	}
	return out
}

// TestUnit checks what the systemd unit promises against the plugin's
// config.json.
func TestUnit(t *testing.T) {
	t.Parallel()
	s := &site{TB: t}
	unit := s.unit()
	for key, want := range map[string]string{
		"Type": "notify", "ExecStart": "/usr/local/bin/weft serve", "Before": "docker.service", "Restart": "always",
		"StateDirectory": "weft", "WantedBy": "multi-user.target",
	} {
		if unit[key] != want {
			t.Errorf("weft.service: %s=%s, not %s", key, unit[key], want)
		}
	}
	for _, key := range []string{"PrivateNetwork", "PrivateMounts", "PrivateTmp", "ProtectSystem", "ProtectHome", "ProtectKernelTunables"} {
		if _, ok := unit[key]; ok {
			t.Errorf("weft.service: %s= gives weft a mount namespace of its own: containers' namespaces would not be seen", key)
		}
	}
	text, err := os.ReadFile("../../config.json")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linux struct{ Capabilities []string }
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Linux.Capabilities {
		if !slices.Contains(strings.Fields(unit["CapabilityBoundingSet"]), c) {
			t.Errorf("weft.service lacks the plugin's %s", c)
		}
	}
}
