package engine

import (
	"slices"
	"strings"
)

// PluginID finds, in the text of /proc/self/mountinfo, the id of the managed plugin that
// this process is; empty if it is none. The engine puts the plugin's own folder below
// its state over /run/docker/plugins, and the plugin's files at the root.
func PluginID(mountinfo string) string {
	const idLength = 64
	isID := func(s string) bool {
		return len(s) == idLength && strings.Trim(s, "0123456789abcdef") == ""
	}
	for m := range mounts(mountinfo) {
		if m.point != "/" && m.point != "/run/docker/plugins" {
			continue
		}
		parts := strings.Split(m.root, "/")
		for i, part := range parts {
			if isID(part) && i > 0 && parts[i-1] == "plugins" {
				return part
			}
		}
	}
	return ""
}

// SeesMounts says, by the text of a managed plugin's /proc/self/mountinfo, whether it sees
// what the host mounts below /run after the plugin's start: the network namespaces of
// containers. That takes a /run that is shared on the host and the runtime runc, which
// hands it on; below crun the plugin's is private (seen with 1.28).
func SeesMounts(mountinfo string) bool {
	for m := range mounts(mountinfo) {
		if m.point == "/run" {
			return m.follows
		}
	}
	return true // it has no /run of its own
}

// A mount is a line of mountinfo (proc(5)): what is mounted and where, and whether it takes
// over what is mounted elsewhere.
type mount struct {
	root, point string
	follows     bool
}

func mounts(mountinfo string) func(yield func(mount) bool) {
	const rootField, pointField, optionalField = 3, 4, 6
	return func(yield func(mount) bool) {
		for line := range strings.Lines(mountinfo) {
			f := strings.Fields(line)
			if len(f) < optionalField {
				continue
			}
			m := mount{root: f[rootField], point: f[pointField]}
			for _, tag := range f[optionalField:max(optionalField, slices.Index(f, "-"))] {
				m.follows = m.follows || strings.HasPrefix(tag, "master:") || strings.HasPrefix(tag, "shared:")
			}
			if !yield(m) {
				return
			}
		}
	}
}
