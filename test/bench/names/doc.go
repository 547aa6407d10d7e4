// Package names measures how soon containers of two hosts know each other's names, on each
// engine. Its test has the build tag bench; `make bench-names` runs it. What an answer
// costs is measured by package internal/names.
package names
