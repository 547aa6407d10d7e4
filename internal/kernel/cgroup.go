package kernel

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// unit names the systemd unit, or else the last part of the path, of a cgroup
// by its number. A plugin sees only its own cgroups, so the hierarchy is
// mounted anew, detached. What cannot be found out is "".
func (h *Host) unit(id uint64) string {
	if id == 0 {
		return ""
	}
	root, err := mountCgroup()
	if err != nil {
		h.log.Debug("cgroup of a socket", "err", err)
		return ""
	}
	defer root.Close()
	found := ""
	err = fs.WalkDir(os.DirFS("/proc/self/fd/"+strconv.Itoa(int(root.Fd()))), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a cgroup that went away meanwhile
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Ino == id {
			found = name
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		h.log.Debug("cgroup of a socket", "err", err)
	}
	return unitName(found)
}

// unitName picks the unit out of a path like system.slice/nginx.service/x.
func unitName(cgroup string) string {
	if cgroup == "." || cgroup == "" {
		return ""
	}
	for part := range strings.SplitSeq(cgroup, "/") {
		for _, suffix := range []string{".service", ".scope", ".socket"} {
			if strings.HasSuffix(part, suffix) {
				return part
			}
		}
	}
	return path.Base(cgroup)
}

func mountCgroup() (*os.File, error) {
	fsfd, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}
