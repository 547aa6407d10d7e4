//go:build linux

package lab

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed boot.sh
var bootScript string

// Host is a test host. Its methods may be called from several goroutines, but
// not while it boots or is powered off.
type Host struct {
	// Name is the host name and the name of the host's port on the switch.
	Name string
	// IPv4 and IPv6 are the addresses of eth0.
	IPv4, IPv6 netip.Addr

	lab   *Lab
	cfg   HostConfig
	index int
	root  root
	disk  string // survives PowerOff

	mu     sync.Mutex
	init   process       // PID 1; zero when the host is off
	exited chan struct{} // closed when init was reaped; nil in other processes
}

func (l *Lab) newHost(cfg HostConfig, index int, r root) *Host {
	h := &Host{Name: cfg.Name, lab: l, cfg: cfg, index: index, root: r, disk: filepath.Join(l.disk, cfg.Name)}
	h.IPv4, h.IPv6 = addressesOf(index)
	return h
}

// addHost makes the disk of a host and records the host.
func (l *Lab) addHost(cfg HostConfig, index int, r root) (*Host, error) {
	if len(cfg.Name) > 15 || strings.ContainsAny(cfg.Name, "/ .\n") || l.Host(cfg.Name) != nil {
		return nil, fmt.Errorf("lab: host name %q is too long, of wrong form or taken", cfg.Name)
	}
	if cfg.Dockerd == "" && !cfg.NoEngine {
		cfg.Dockerd = os.Getenv("WEFT_LAB_DOCKERD_" + envName(cfg.Name))
	}
	h := l.newHost(cfg, index, r)
	for _, dir := range []string{"root", "upper", "work", "docker", "containerd"} {
		if err := os.MkdirAll(filepath.Join(h.disk, dir), 0o755); err != nil {
			return nil, err
		}
	}
	return h, l.record.setHost(cfg.Name, func(hr *hostRecord) {
		hr.Config, hr.Index, hr.Root = cfg, index, r
	})
}

func envName(host string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(host))
}

func sortHosts(hosts []*Host) {
	slices.SortFunc(hosts, func(a, b *Host) int { return cmp.Compare(a.index, b.index) })
}

func (h *Host) initPID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.init.PID
}

// PID is the process ID, on the machine, of the host's first process, for
// nsenter and /proc. It is 0 when the host is off and changes with every boot.
func (h *Host) PID() int { return h.initPID() }

// Boot switches on a host that is off and starts its engine, and its member of
// a store if that ran when the host went off.
func (h *Host) Boot(ctx context.Context) error {
	first, err := h.prepareDisk(ctx)
	if err != nil {
		return err
	}
	if err := h.start(ctx); err != nil {
		return err
	}
	if err := h.plugIn(ctx); err != nil {
		return err
	}
	if err := h.configure(ctx, first); err != nil {
		return err
	}
	if err := h.bootMember(ctx); err != nil {
		return err
	}
	if h.cfg.NoEngine {
		return nil
	}
	_, err = h.StartEngine(ctx)
	return err
}

// prepareDisk fills the disk of a host before its first boot.
func (h *Host) prepareDisk(ctx context.Context) (first bool, err error) {
	mark := filepath.Join(h.disk, "prepared")
	if _, err := os.Stat(mark); err == nil {
		return false, nil
	}
	graph := filepath.Join(h.disk, "docker")
	if !h.cfg.NoEngine {
		if err := h.root.copyGraph(ctx, graph); err != nil {
			return true, err
		}
	}
	if h.cfg.Light {
		file := filepath.Join(h.disk, "upper", openProfile)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(`{"defaultAction": "SCMP_ACT_ALLOW"}`), 0o644)); err != nil {
			return true, err
		}
	}
	if h.cfg.Plugin != "" {
		prepared, err := h.root.preparedPlugin(ctx, h.cfg.Plugin)
		if err != nil {
			return true, err
		}
		if err := copyPlugin(ctx, prepared, graph); err != nil {
			return true, err
		}
	}
	return true, os.WriteFile(mark, nil, 0o644)
}

// start runs boot.sh in new namespaces and waits until it is PID 1 of a host.
func (h *Host) start(ctx context.Context) error {
	if pid := h.initPID(); pid != 0 {
		return fmt.Errorf("lab: %s: boot: the host is on", h.Name)
	}
	group := cgroupOf(h.lab.ID, h.Name)
	if err := makeCgroup(group); err != nil {
		return err
	}
	script := filepath.Join(h.disk, "boot.sh")
	if err := os.WriteFile(script, []byte(bootScript), 0o644); err != nil {
		return err
	}
	bootLog, err := os.Create(filepath.Join(h.disk, "boot.log"))
	if err != nil {
		return err
	}
	defer bootLog.Close()
	ready, started, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command("bash", script, "join")
	cmd.Env = append(os.Environ(), "LAB_DISK="+h.disk, "LAB_LOWER="+h.root.Tree(), "LAB_NAME="+h.Name,
		"LAB_CGROUP="+group, "LAB_BINDS="+h.binds())
	cmd.Stdout, cmd.Stderr = bootLog, bootLog
	cmd.ExtraFiles = []*os.File{started}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	err = cmd.Start()
	started.Close()
	if err != nil {
		return fmt.Errorf("lab: %s: boot: %w", h.Name, err)
	}
	return h.awaitInit(ctx, cmd, ready)
}

// awaitInit takes note of a booting host and waits for its "ready".
func (h *Host) awaitInit(ctx context.Context, cmd *exec.Cmd, ready *os.File) error {
	exited := make(chan struct{})
	h.mu.Lock()
	h.init = process{cmd.Process.Pid, startTime(cmd.Process.Pid)}
	h.exited = exited
	init := h.init
	h.mu.Unlock()
	go func() {
		defer close(exited)
		_ = cmd.Wait() // it is killed, or its log says why it ended
	}()
	if err := h.lab.record.setHost(h.Name, func(hr *hostRecord) { hr.Init = init }); err != nil {
		return err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(30 * time.Second)
	}
	_ = ready.SetReadDeadline(deadline)
	word := make([]byte, 8)
	if n, err := ready.Read(word); err != nil || string(word[:n]) != "ready\n" {
		log, _ := os.ReadFile(filepath.Join(h.disk, "boot.log"))
		return errors.Join(fmt.Errorf("lab: %s: boot failed: %w\n%s", h.Name, err, log), h.PowerOff(ctx))
	}
	return nil
}

// configure does what the boot of a real machine does from its files.
func (h *Host) configure(ctx context.Context, first bool) error {
	if first {
		if err := h.writeIdentity(ctx); err != nil {
			return err
		}
	}
	forward := "0"
	if h.cfg.IPForward {
		forward = "1"
	}
	// Forwarding first: it resets others. eth0 came after boot.sh, so a
	// setting for eth0 is possible only now.
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := h.Sysctl(ctx, name, forward); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.cfg.Sysctls)) {
		if err := h.Sysctl(ctx, name, h.cfg.Sysctls[name]); err != nil {
			return err
		}
	}
	return nil
}

// writeIdentity gives a new host its names and its configuration.
func (h *Host) writeIdentity(ctx context.Context) error {
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	for _, other := range h.lab.all() {
		fmt.Fprintf(&hosts, "%s %s\n%s %s\n", other.IPv4, other.Name, other.IPv6, other.Name)
	}
	const script = `
		echo "$0" >/etc/hostname
		cat >/etc/hosts
		echo "nameserver $1" >/etc/resolv.conf
		tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
		[ "$2" = false ] || for f in iptables ip6tables; do
			ln -sf "/usr/sbin/$f-legacy" "/etc/alternatives/$f"
			for x in save restore; do ln -sf "/usr/sbin/$f-legacy-$x" "/etc/alternatives/$f-$x"; done
		done`
	_, err := h.RunInput(ctx, strings.NewReader(hosts.String()), "sh", "-ec", script,
		h.Name, Gateway4, fmt.Sprint(h.cfg.IptablesLegacy))
	if err != nil || h.cfg.DaemonJSON == "" {
		return err
	}
	return h.SetDaemonJSON(ctx, h.cfg.DaemonJSON)
}

// PowerOff kills everything in the host at once. Its namespaces and /run are
// lost, its disk is kept. A host that is off stays off.
func (h *Host) PowerOff(ctx context.Context) error {
	h.mu.Lock()
	init, exited := h.init, h.exited
	h.init, h.exited = process{}, nil
	h.mu.Unlock()
	if init.PID == 0 {
		return nil
	}
	if init.alive() {
		if err := syscall.Kill(init.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	err := Until(ctx, h.Name+" to go off", func(context.Context) error {
		select {
		case <-exited:
			return nil
		default:
		}
		if exited == nil && !init.alive() {
			return nil
		}
		return errors.New("processes are left")
	})
	if err != nil {
		return err
	}
	group := cgroupOf(h.lab.ID, h.Name)
	return errors.Join(
		killCgroup(ctx, group),
		removeCgroup(ctx, group),
		h.unplug(ctx),
		h.lab.record.setHost(h.Name, func(hr *hostRecord) { hr.Init = process{} }),
	)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
