//go:build linux

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is also the killed run of TestKilledRun.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_TEST_VICTIM") == "" {
		os.Exit(m.Run())
	}
	l, err := Start(context.Background(), Config{Hosts: []HostConfig{{Name: "victim"}}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("lab", l.ID)
	select {}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("test hosts need root")
	}
}

// allEngines has one host for every engine.
func allEngines() Config {
	var cfg Config
	for _, v := range Engines() {
		name := "e" + strings.ReplaceAll(v, ".", "-")
		cfg.Hosts = append(cfg.Hosts, HostConfig{Name: name, Engine: v, DaemonJSON: `{"live-restore": true}`})
	}
	return cfg
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEngines(t *testing.T) {
	needRoot(t)
	begin := time.Now()
	l := New(t, allEngines())
	t.Logf("three engines are up after %v", time.Since(begin))
	for i, h := range l.Hosts {
		t.Run(Engines()[i], func(t *testing.T) {
			version, err := h.EngineVersion(t.Context())
			check(t, err)
			if version != Engines()[i] {
				t.Errorf("engine is %s", version)
			}
			if out := h.MustRun(t, "iptables", "-S", "FORWARD"); !strings.Contains(out, "-P FORWARD DROP") {
				t.Errorf("the engine did not set the policy of FORWARD:\n%s", out)
			}
			if out := h.MustDocker(t, "run", "--rm", "--network", "none", Image, "ip", "-o", "link"); strings.Contains(out, "eth0") {
				t.Errorf("without a network there is\n%s", out)
			}
			publish(t, l, h)
			cgroups := h.MustDocker(t, "run", "--rm", "-m", "64m", Image, "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
			if cgroups != "67108864" {
				t.Errorf("memory limit is %s", cgroups)
			}
		})
	}
}

// publish reaches a published port of a host from another machine.
func publish(t *testing.T, l *Lab, h *Host) {
	t.Helper()
	h.MustDocker(t, "run", "-d", "--name", "web", "-p", "8080:80", Image, "socat", "tcp-l:80,fork,reuseaddr", "exec:hostname")
	err := Until(t.Context(), "the published port", func(ctx context.Context) error {
		out, err := l.Outside.Run(ctx, "socat", "-T1", "-", "tcp:"+h.IPv4.String()+":8080")
		if err == nil && len(out) != 12 {
			err = fmt.Errorf("got %q, not a container's name", out)
		}
		return err
	})
	check(t, err)
}

func TestEngineDeath(t *testing.T) {
	needRoot(t)
	l := New(t, allEngines())
	for i, h := range l.Hosts {
		t.Run(Engines()[i], func(t *testing.T) {
			h.MustDocker(t, "run", "-d", "--name", "stays", Image, "socat", "tcp-l:80,fork", "exec:hostname")
			pid := h.MustDocker(t, "inspect", "-f", "{{.State.Pid}}", "stays")
			check(t, h.KillEngine(t.Context()))
			h.MustRun(t, "kill", "-0", pid)
			took, err := h.StartEngine(t.Context())
			check(t, err)
			t.Logf("dockerd answers after %v", took)
			if now := h.MustDocker(t, "inspect", "-f", "{{.State.Pid}}", "stays"); now != pid {
				t.Errorf("the container's process is %s, was %s", now, pid)
			}
			n, err := h.KillProcess(t.Context(), "tcp-l:80")
			check(t, err)
			if n != 1 {
				t.Errorf("%d processes killed", n)
			}
			check(t, h.SetDaemonJSON(t.Context(), `{"live-restore": false, "labels": ["a=b"]}`))
			_, err = h.RestartEngine(t.Context())
			check(t, err)
			if labels := h.MustDocker(t, "info", "-f", "{{.Labels}}"); labels != "[a=b]" {
				t.Errorf("labels are %s", labels)
			}
		})
	}
}

func TestPowerCut(t *testing.T) {
	needRoot(t)
	l := New(t, allEngines())
	for i, h := range l.Hosts {
		t.Run(Engines()[i], func(t *testing.T) {
			h.MustDocker(t, "run", "-d", "--name", "always", "--restart", "always", "-p", "8080:80", Image, "sleep", "inf")
			h.MustRun(t, "sh", "-c", "echo kept >/root/disk; echo lost >/run/memory")
			check(t, h.PowerOff(t.Context()))
			if _, err := h.Run(t.Context(), "true"); err == nil {
				t.Error("a command ran in a host that is off")
			}
			begin := time.Now()
			check(t, h.Boot(t.Context()))
			t.Logf("boot took %v", time.Since(begin))
			check(t, Until(t.Context(), "the container", func(ctx context.Context) error {
				out, err := h.Docker(ctx, "inspect", "-f", "{{.State.Running}}", "always")
				if err == nil && out != "true" {
					err = errors.New("it does not run")
				}
				return err
			}))
			if out := h.MustRun(t, "sh", "-c", "cat /root/disk; ls /run/memory 2>&1; :"); !strings.Contains(out, "kept\n") || !strings.Contains(out, "No such file") {
				t.Errorf("after a power cut: %s", out)
			}
		})
	}
}

func TestHostKnobs(t *testing.T) {
	needRoot(t)
	l := New(t, Config{Hosts: []HostConfig{{
		IptablesLegacy: true, IPForward: true, MTU: 1400,
		Sysctls: map[string]string{"net.ipv4.conf.eth0.rp_filter": "1", "net.bridge.bridge-nf-call-iptables": "0"},
	}}})
	h := l.Host("h1")
	for _, want := range [][2]string{
		{"iptables -V | grep -o legacy", "legacy"},
		{"ip6tables-save -V | grep -o legacy", "legacy"},
		{"iptables -S FORWARD | head -1", "-P FORWARD ACCEPT"},
		{"cat /sys/class/net/eth0/mtu", "1400"},
		{"cat /proc/sys/net/ipv4/conf/eth0/rp_filter", "1"},
		{"cat /proc/sys/net/bridge/bridge-nf-call-iptables", "0"},
		{"hostname; getent hosts outside", "h1\nfd77::200       outside"},
	} {
		if out := h.MustRun(t, "sh", "-c", want[0]); out != want[1] {
			t.Errorf("%s: %q, want %q", want[0], out, want[1])
		}
	}
	publish(t, l, h)

	check(t, h.WriteFile(t.Context(), "/var/run/new/dir/file", "one\n", 0o600))
	if out, err := h.ReadFile(t.Context(), "/run/new/dir/file"); err != nil || out != "one\n" {
		t.Errorf("read %q, %v", out, err)
	}
	check(t, h.CopyIn(t.Context(), "testdata/plugin", "/srv/copy"))
	if out := h.MustRun(t, "ls", "/srv/copy"); out != "config.json\nmain.go" {
		t.Errorf("copied %s", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Run(ctx, "sh", "-c", "sleep 1000; :"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command over time: %v", err)
	}
	if n, err := h.KillProcess(t.Context(), "sleep 1000"); err != nil || n != 0 {
		t.Errorf("%d processes left of the command over time, %v", n, err)
	}
}

// TestForeignEngine puts a dockerd and a docker-proxy over those of the root.
func TestForeignEngine(t *testing.T) {
	needRoot(t)
	roots, err := hostRoots(t.Context(), []HostConfig{{}})
	check(t, err)
	dir := t.TempDir()
	for _, name := range []string{"dockerd", "docker-proxy"} {
		program, err := os.ReadFile(filepath.Join(roots[0].Tree(), "usr/sbin", name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, name), program, 0o755))
	}
	t.Setenv("WEFT_LAB_DOCKERD_FOREIGN_1", filepath.Join(dir, "dockerd"))
	l := New(t, Config{Hosts: []HostConfig{{Name: "foreign-1", DaemonArgs: []string{"--label", "x=y"}}}})
	h := l.Host("foreign-1")
	mounts := h.MustRun(t, "cat", "/proc/self/mountinfo")
	for _, path := range []string{" /usr/sbin/dockerd ro", " /usr/sbin/docker-proxy ro"} {
		if !strings.Contains(mounts, path) {
			t.Errorf("nothing is mounted at%s", path)
		}
	}
	if labels := h.MustDocker(t, "info", "-f", "{{.Labels}}"); labels != "[x=y]" {
		t.Errorf("labels are %s", labels)
	}
	publish(t, l, h)
}

// TestSwarm joins two hosts to a Swarm: its ports and VXLAN pass the switch.
func TestSwarm(t *testing.T) {
	needRoot(t)
	l := New(t, Config{Hosts: []HostConfig{{}, {}}})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	h1.MustDocker(t, "swarm", "init", "--advertise-addr", h1.IPv4.String())
	token := h1.MustDocker(t, "swarm", "join-token", "-q", "worker")
	h2.MustDocker(t, "swarm", "join", "--token", token, h1.IPv4.String()+":2377")
	h1.MustDocker(t, "network", "create", "-d", "overlay", "--attachable", "over")
	h1.MustDocker(t, "run", "-d", "--name", "one", "--network", "over", Image, "sleep", "inf")
	h2.MustDocker(t, "run", "-d", "--name", "two", "--network", "over", Image, "sleep", "inf")
	check(t, Until(t.Context(), "the other container", func(ctx context.Context) error {
		_, err := h2.Docker(ctx, "exec", "two", "ping", "-c1", "-W1", "one")
		return err
	}))
}

func TestLink(t *testing.T) {
	needRoot(t)
	l := New(t, Config{Hosts: []HostConfig{{NoEngine: true}, {NoEngine: true}}})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	ping := func() error {
		_, err4 := h1.Run(t.Context(), "ping", "-c1", "-W1", h2.IPv4.String())
		_, err6 := h1.Run(t.Context(), "ping", "-c1", "-W1", h2.IPv6.String())
		return errors.Join(err4, err6)
	}
	carries := func() {
		t.Helper()
		check(t, Until(t.Context(), "the link", func(context.Context) error { return ping() }))
	}
	carries()
	check(t, h2.CutLink(t.Context()))
	if ping() == nil {
		t.Error("the cut link carries packets")
	}
	check(t, h2.HealLink(t.Context()))
	carries()

	p, err := h1.Background("socat", "udp-l:7,fork", "exec:cat")
	check(t, err)
	check(t, Until(t.Context(), "the echo", func(ctx context.Context) error {
		out, err := h2.Run(ctx, "sh", "-c", `echo hello | socat -T0.2 - udp:`+h1.Name+`:7`)
		if err == nil && out != "hello" {
			err = fmt.Errorf("got %q", out)
		}
		return err
	}))
	p.Stop()
	if n, err := h1.KillProcess(t.Context(), "^socat udp-l:7"); err != nil || n != 0 {
		t.Errorf("%d processes left after Stop, %v", n, err)
	}
}

func TestPlugin(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "rootfs/weft"), "./testdata/plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config, err := os.ReadFile("testdata/plugin/config.json")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644))
	l := New(t, allEngines())
	for i, h := range l.Hosts {
		t.Run(Engines()[i], func(t *testing.T) {
			ctx := t.Context()
			check(t, h.InstallPlugin(ctx, dir, "WORD=hello"))
			check(t, Until(ctx, "the plugin's log", func(ctx context.Context) error {
				if out, err := h.PluginLog(ctx); err != nil || !strings.Contains(out, "word is hello") {
					return fmt.Errorf("log is %q, %w", out, err)
				}
				return nil
			}))
			seesNamespaces(t, h)
			restarted(t, h, func() { check(t, h.KillPlugin(ctx)) })
			restarted(t, h, func() {
				check(t, h.PowerOff(ctx))
				check(t, h.Boot(ctx))
			})
			check(t, h.DisablePlugin(ctx, true))
			check(t, h.EnablePlugin(ctx))
			check(t, h.RemovePlugin(ctx, true))
		})
	}
}

// seesNamespaces checks that the namespace of a container that started after
// the plugin can be entered by the plugin.
func seesNamespaces(t *testing.T, h *Host) {
	t.Helper()
	h.MustDocker(t, "run", "-d", "--name", "seen", Image, "sleep", "inf")
	path := h.MustDocker(t, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", "seen")
	pid, err := h.PluginPID(t.Context())
	check(t, err)
	path = strings.Replace(path, "/var/run", "/run", 1)
	kind := h.MustRun(t, "stat", "-f", "-c", "%T", fmt.Sprintf("/proc/%d/root%s", pid, path))
	if kind != "nsfs" {
		t.Errorf("in the plugin %s is %s", path, kind)
	}
	h.MustRun(t, "test", "-S", fmt.Sprintf("/proc/%d/root/run/docker.sock", pid))
}

// restarted checks that the engine starts the plugin again after an accident.
func restarted(t *testing.T, h *Host, accident func()) {
	t.Helper()
	accident()
	check(t, Until(t.Context(), "the plugin's return", func(ctx context.Context) error {
		pid, err := h.PluginPID(ctx)
		if err == nil && pid == 0 {
			err = errors.New("it does not run")
		}
		return err
	}))
}

func TestKilledRun(t *testing.T) {
	needRoot(t)
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), "LAB_TEST_VICTIM=1")
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	check(t, err)
	check(t, victim.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	id, ok := strings.CutPrefix(strings.TrimSpace(line), "lab ")
	if !ok {
		t.Fatal(line)
	}
	l, err := Open(id)
	check(t, err)
	l.Host("victim").MustDocker(t, "run", "-d", Image, "sleep", "inf")
	check(t, CleanStale(t.Context()))
	if _, err := os.Stat(recordPath(id)); err != nil {
		t.Fatalf("the lab of a running process was removed: %v", err)
	}

	check(t, victim.Process.Kill())
	_ = victim.Wait()
	pids, err := cgroupProcesses(cgroupOf(id, ""))
	check(t, err)
	if len(pids) == 0 {
		t.Error("the hosts are gone already: this test tests nothing")
	}
	check(t, CleanStale(t.Context()))
	for _, path := range []string{recordPath(id), "/run/netns/" + switchName(id), l.disk, filepath.Join(cgroupMount, "memory", cgroupOf(id, ""))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want it removed", path, err)
		}
	}
	for _, pid := range pids {
		if startTime(pid) != 0 {
			t.Errorf("process %d is left", pid)
		}
	}
}
