// Package build tells which weft this is.
package build

import "runtime/debug"

// Info is the version of the running binary.
type Info struct {
	// Version is the release, or "devel".
	Version string `json:"version"`
	// Commit is the source's revision, "" when it was built outside a checkout.
	Commit string `json:"commit,omitempty"`
	// Go is the toolchain.
	Go string `json:"go"`
}

// Read takes the release from the linker (version, "" for none) and the rest
// from what the toolchain recorded.
func Read(version string) Info {
	info := Info{Version: version}
	if info.Version == "" {
		info.Version = "devel"
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		info.Go = b.GoVersion
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				info.Commit = s.Value
			}
		}
	}
	return info
}
