package daemon

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseProgram unmaps the pages of the program itself that are in memory. Most of
// them were only needed to start: the tables of etcd's and gRPC's messages alone are
// megabytes. What is needed again comes back from the page cache, page by page.
func ReleaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var from, to uintptr
		var mode string
		// 00400000-00c3b000 r-xp 00000000 fe:00 1234 /usr/bin/weft
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			continue
		}
		// Only what nobody can have written: it is the same in the file.
		if strings.HasPrefix(mode, "r") && mode[1] == '-' && strings.HasSuffix(lines.Text(), " "+exe) {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return fmt.Errorf("release the program's pages %x-%x: %w", from, to, errno)
			}
		}
	}
	return lines.Err()
}
