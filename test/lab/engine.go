//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startLimit bounds the start and the orderly stop of an engine.
const startLimit = 60 * time.Second

// ContainerdConfig leaves out what the engine does not use, as the engine's
// own configuration does, because it slows down every start.
const ContainerdConfig = `version = 2
disabled_plugins = [
	"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
	"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
	"io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
	"io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri",
]
`

// openProfile is a file of light hosts, a filter that lets every system call pass: the
// engine's own takes a tenth of a container's start to make.
const openProfile = "/etc/weft-lab-open.json"

// lightRuntime is what light hosts have beside runc. It is not the engine's default: a
// managed plugin below crun does not see what is mounted on the host later.
const lightRuntime = "crun"

// Runtime is what the engine's API takes as the runtime of a container that a test wants
// cheap; empty, the engine's own, where the host is not light.
func (h *Host) Runtime() string {
	if h.cfg.Light {
		return lightRuntime
	}
	return ""
}

// daemonScript starts a daemon that belongs to the host and not to the
// process that asked for it: in the host's cgroups, with PID 1 as parent.
const daemonScript = `
	cg=/sys/fs/cgroup
	if [ -e $cg/cgroup.controllers ]; then
		echo 0 >$cg/init/cgroup.procs
	else
		for f in $cg/*/cgroup.procs; do echo 0 >$f; done
	fi
	name=$0
	setsid "$@" >>/var/log/$name.log 2>&1 </dev/null &
	echo $! >/run/weft-lab/$name.pid`

// binds lists what boot.sh mounts into the host, in its form: the binaries that
// a foreign dockerd brings along, and what the test asked for.
func (h *Host) binds() string {
	var binds []string
	for path, file := range h.cfg.Binds {
		binds = append(binds, file+" "+path+" rw")
	}
	return strings.Join(append(binds, h.engineBinds()...), "\n")
}

func (h *Host) engineBinds() []string {
	if h.cfg.Dockerd == "" {
		return nil
	}
	binds := []string{h.cfg.Dockerd + " /usr/sbin/dockerd ro"}
	for name, path := range map[string]string{
		"docker":                  "/usr/bin/docker",
		"docker-proxy":            "/usr/sbin/docker-proxy",
		"docker-init":             "/usr/bin/docker-init",
		"containerd":              "/usr/bin/containerd",
		"containerd-shim-runc-v2": "/usr/bin/containerd-shim-runc-v2",
		"ctr":                     "/usr/bin/ctr",
		"runc":                    "/usr/sbin/runc",
	} {
		file := filepath.Join(filepath.Dir(h.cfg.Dockerd), name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			binds = append(binds, file+" "+path+" ro")
		}
	}
	return binds
}

// StartEngine starts containerd if need be, and dockerd, and waits until the
// engine's API answers. It returns how long dockerd took for that.
func (h *Host) StartEngine(ctx context.Context) (time.Duration, error) {
	ctx, cancel := bounded(ctx, startLimit)
	defer cancel()
	if !h.daemonAlive("containerd") {
		if err := h.startContainerd(ctx); err != nil {
			return 0, err
		}
	}
	if h.daemonAlive("dockerd") {
		return 0, fmt.Errorf("lab: %s: the engine runs already", h.Name)
	}
	begin := time.Now()
	args := append([]string{"dockerd", "--containerd=/run/containerd/containerd.sock"}, h.cfg.DaemonArgs...)
	if h.cfg.Light {
		args = append(args, "--seccomp-profile="+openProfile, "--add-runtime="+lightRuntime+"=/usr/bin/crun")
	}
	if err := h.startDaemon(ctx, "dockerd", args...); err != nil {
		return 0, err
	}
	api := h.API()
	defer api.CloseIdleConnections()
	err := h.awaitDaemon(ctx, "dockerd", func(ctx context.Context) error {
		_, err := api.Call(ctx, http.MethodGet, "/_ping", nil)
		return err
	})
	return time.Since(begin), err
}

func (h *Host) startContainerd(ctx context.Context) error {
	const path = "/run/weft-lab/containerd.toml"
	if err := h.WriteFile(ctx, path, ContainerdConfig, 0o644); err != nil {
		return err
	}
	if err := h.startDaemon(ctx, "containerd", "containerd", "--config", path); err != nil {
		return err
	}
	return h.awaitDaemon(ctx, "containerd", func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", h.inside("/run/containerd/containerd.sock"))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (h *Host) startDaemon(ctx context.Context, name string, args ...string) error {
	if h.cfg.Light {
		args = append([]string{"env", "GOGC=400"}, args...) // what a daemon starts has it, too
	}
	_, err := h.Run(ctx, append([]string{"sh", "-ec", daemonScript, name}, args...)...)
	return err
}

// awaitDaemon waits for a daemon to answer, but not if it has ended.
func (h *Host) awaitDaemon(ctx context.Context, name string, answers func(context.Context) error) error {
	var dead bool
	err := Until(ctx, name+" of "+h.Name, func(ctx context.Context) error {
		if err := answers(ctx); err == nil {
			return nil
		} else if h.daemonAlive(name) {
			return err
		}
		dead = true
		return nil
	})
	if dead {
		err = errors.New("it ended")
	}
	if err != nil {
		return fmt.Errorf("lab: %s: start of %s: %w\n%s", h.Name, name, err, tail(h.log(name), 30))
	}
	return nil
}

// inside is the path of a host's file for this process. It must not lead
// through an absolute link, which would be followed on the machine.
func (h *Host) inside(path string) string { return fmt.Sprintf("/proc/%d/root%s", h.initPID(), path) }

// DockerSocket is the path, on the machine, of the socket of the host's
// engine. It changes with every boot.
func (h *Host) DockerSocket() string { return h.inside("/run/docker.sock") }

// tell posts to the engine's API.
func (h *Host) tell(ctx context.Context, path string, doc any) error {
	api := h.API()
	defer api.CloseIdleConnections()
	if _, err := api.Call(ctx, http.MethodPost, path, doc); err != nil {
		return fmt.Errorf("lab: %s: %w", h.Name, err)
	}
	return nil
}

// daemonPID is the process ID, in the host, of a daemon the lab has started.
func (h *Host) daemonPID(name string) int {
	data, err := os.ReadFile(h.inside("/run/weft-lab/" + name + ".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

// daemonAlive tells whether a daemon runs and is not just a zombie.
func (h *Host) daemonAlive(name string) bool {
	pid := h.daemonPID(name)
	if pid == 0 {
		return false
	}
	stat, err := os.ReadFile(h.inside(fmt.Sprintf("/proc/%d/stat", pid)))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// StopEngine ends dockerd with SIGTERM and waits for its end. containerd
// stays.
func (h *Host) StopEngine(ctx context.Context) error {
	return h.endDaemon(ctx, "dockerd", syscall.SIGTERM)
}

// KillEngine ends dockerd with SIGKILL. containerd and the containers stay.
func (h *Host) KillEngine(ctx context.Context) error {
	return h.endDaemon(ctx, "dockerd", syscall.SIGKILL)
}

// endDaemon sends a daemon the signal that ends it and waits for its end.
func (h *Host) endDaemon(ctx context.Context, name string, signal syscall.Signal) error {
	ctx, cancel := bounded(ctx, startLimit)
	defer cancel()
	if err := h.signalDaemon(ctx, name, signal); err != nil {
		return err
	}
	pid := strconv.Itoa(h.daemonPID(name))
	return Until(ctx, "the end of "+name+" of "+h.Name, func(context.Context) error {
		if _, err := os.Stat(h.inside("/proc/" + pid)); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
}

func (h *Host) signalDaemon(ctx context.Context, name string, signal syscall.Signal) error {
	if !h.daemonAlive(name) {
		return fmt.Errorf("lab: %s: %s does not run", h.Name, name)
	}
	_, err := h.Run(ctx, "sh", "-c", "kill -$0 $1", strconv.Itoa(int(signal)), strconv.Itoa(h.daemonPID(name)))
	return err
}

// RestartEngine is StopEngine and StartEngine.
func (h *Host) RestartEngine(ctx context.Context) (time.Duration, error) {
	if err := h.StopEngine(ctx); err != nil {
		return 0, err
	}
	return h.StartEngine(ctx)
}

// KillProcess kills all processes of the host, containers included, whose
// command line matches an extended regular expression, waits for their end
// and returns their number.
func (h *Host) KillProcess(ctx context.Context, pattern string) (int, error) {
	// The pattern comes by standard input, or it would match this command too.
	const script = `read -r pattern; pids=$(pgrep -f -- "$pattern") || exit 0; kill -9 $pids 2>/dev/null; echo $pids`
	out, err := h.RunInput(ctx, strings.NewReader(pattern+"\n"), "sh", "-c", script)
	if err != nil {
		return 0, err
	}
	pids := strings.Fields(out)
	return len(pids), Until(ctx, "the end of "+pattern+" in "+h.Name, func(context.Context) error {
		for _, pid := range pids {
			if _, err := os.Stat(h.inside("/proc/" + pid)); err == nil {
				return fmt.Errorf("process %s is there", pid)
			}
		}
		return nil
	})
}

// SetDaemonJSON replaces /etc/docker/daemon.json, or removes it if text is
// empty. It takes effect when the engine starts.
func (h *Host) SetDaemonJSON(ctx context.Context, text string) error {
	const path = "/etc/docker/daemon.json"
	if text == "" {
		_, err := h.Run(ctx, "rm", "-f", path)
		return err
	}
	return h.WriteFile(ctx, path, text, 0o644)
}

// SetDaemonArgs replaces the arguments of dockerd. It takes effect when the
// engine starts.
func (h *Host) SetDaemonArgs(args ...string) error {
	h.cfg.DaemonArgs = args
	return h.lab.record.setHost(h.Name, func(hr *hostRecord) { hr.Config.DaemonArgs = args })
}

// EngineVersion asks the engine for its version. The packager's suffix, as in
// 20.10.24+dfsg1, is left out.
func (h *Host) EngineVersion(ctx context.Context) (string, error) {
	out, err := h.Docker(ctx, "version", "--format", "{{.Server.Version}}")
	version, _, _ := strings.Cut(out, "+")
	return version, err
}

// EngineLog is the log of dockerd since the host was made, also when the host
// is off.
func (h *Host) EngineLog() string { return h.log("dockerd") }

// ContainerdLog is the log of containerd.
func (h *Host) ContainerdLog() string { return h.log("containerd") }

func (h *Host) log(name string) string {
	data, err := os.ReadFile(filepath.Join(h.disk, "upper/var/log", name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}
