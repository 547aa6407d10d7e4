//go:build linux

package vm

import (
	"fmt"
	"io"
	"path"
)

// A cpio writes the archive that the kernel unpacks as its first root: format newc, see
// the kernel's driver-api/early-userspace/buffer-format.
type cpio struct {
	w     io.Writer
	inode int
	made  map[string]bool
	err   error
}

// Kinds of files, as in stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

func newCPIO(w io.Writer) *cpio { return &cpio{w: w, made: map[string]bool{"/": true}} }

// file adds an executable file, and the folders above it.
func (c *cpio) file(name string, content []byte) {
	if c.made[name] {
		return
	}
	c.parents(name)
	c.entry(name, typeFile|0o755, 0, 0, content)
}

// device adds a character device.
func (c *cpio) device(name string, major, minor int) {
	c.parents(name)
	c.entry(name, typeChar|0o600, major, minor, nil)
}

// dir adds a folder.
func (c *cpio) dir(name string) {
	if c.made[name] {
		return
	}
	c.parents(name)
	c.entry(name, typeDir|0o755, 0, 0, nil)
}

func (c *cpio) parents(name string) { c.dir(path.Dir(name)) }

// close ends the archive and says what went wrong anywhere in it.
func (c *cpio) close() error {
	c.entry("/TRAILER!!!", 0, 0, 0, nil)
	return c.err
}

func (c *cpio) entry(name string, mode, major, minor int, content []byte) {
	c.made[name] = true
	c.inode++
	name = name[1:] // of an absolute path
	const links = 1
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name))
	c.write(content)
}

// write writes something and fills up to a multiple of four bytes.
func (c *cpio) write(b []byte) {
	for _, part := range [][]byte{b, make([]byte, (4-len(b)%4)%4)} {
		if c.err == nil {
			_, c.err = c.w.Write(part)
		}
	}
}
