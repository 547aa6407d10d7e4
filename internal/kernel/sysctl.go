package kernel

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// procfs is a proc file system of our own. In a managed plugin /proc/sys is
// mounted read-only; a detached mount is writable and needs no mount point.
// Files below sys/net belong to the network namespace of the thread that opens
// them.
type procfs struct{ dir *os.File }

// openProc makes the detached mount. Where the kernel refuses it, the machine's own
// /proc serves.
func openProc() (*procfs, error) {
	dir, err := detached("proc")
	if err == nil {
		return &procfs{dir: dir}, nil
	}
	dir, openErr := os.Open("/proc")
	if openErr != nil {
		return nil, fmt.Errorf("%w; open /proc: %w", err, openErr)
	}
	return &procfs{dir: dir}, nil
}

// detached mounts a file system of the kernel's, as the calling thread's namespaces
// show it, without a mount point (Linux 5.2).
func detached(kind string) (*os.File, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", kind, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount %s: %w", kind, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", kind, err)
	}
	return os.NewFile(uintptr(fd), kind), nil
}

// Close drops the mount.
func (p *procfs) Close() error { return p.dir.Close() }

// sysctlPath turns net.ipv4.conf.eth0.rp_filter into a path. A name of a device
// may hold dots, so the part between conf or neigh and the last dot stays whole.
func sysctlPath(key string) string {
	if strings.Contains(key, "/") {
		return filepath.Join("sys", key)
	}
	parts := strings.Split(key, ".")
	if len(parts) > 5 && (parts[2] == "conf" || parts[2] == "neigh") {
		parts = append(append(parts[:3:3], strings.Join(parts[3:len(parts)-1], ".")), parts[len(parts)-1])
	}
	return filepath.Join("sys", filepath.Join(parts...))
}

func (p *procfs) open(key string, flags int) (*os.File, error) {
	path := sysctlPath(key)
	fd, err := unix.Openat(int(p.dir.Fd()), path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc/" + path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (p *procfs) read(key string) (string, error) {
	f, err := p.open(key, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return strings.TrimSpace(string(b)), err
}

func (p *procfs) write(s Sysctl) error {
	f, err := p.open(s.Key, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", s.Key, s.Value, vocabulary(err))
	}
	defer f.Close()
	if _, err := f.WriteString(s.Value); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", s.Key, s.Value, err)
	}
	return nil
}

// ensure writes a value only where it differs.
func (p *procfs) ensure(s Sysctl) (changed bool, err error) {
	if have, err := p.read(s.Key); err == nil && have == s.Value {
		return false, nil
	}
	return true, p.write(s)
}

// Sysctl reads one setting of the host's namespace.
func (h *Host) Sysctl(key string) (string, error) {
	v, err := h.proc.read(key)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", key, vocabulary(err))
	}
	return v, nil
}

// EnsureSysctl makes a setting of the host's namespace have that value and
// reports whether it had another one.
func (h *Host) EnsureSysctl(s Sysctl) (changed bool, err error) { return h.proc.ensure(s) }
