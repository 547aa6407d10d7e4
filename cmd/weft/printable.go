package main

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What is printed comes from elsewhere in part: aliases of containers, names of hosts, of
// networks, errors. Nothing of it may move the cursor or make a line look like another one.

// printable returns a text in which everything that does not print is escaped as in Go.
func printable(text string) string {
	var out strings.Builder
	for len(text) > 0 {
		r, width := utf8.DecodeRuneInString(text)
		one := text[:width]
		if !strconv.IsPrint(r) || r == utf8.RuneError && width == 1 {
			one = strings.Trim(strconv.Quote(one), `"`)
		}
		out.WriteString(one)
		text = text[width:]
	}
	return out.String()
}

// makePrintable does so with all texts of a value that can be changed.
func makePrintable(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(printable(v.String()))
	case reflect.Pointer:
		if !v.IsNil() {
			makePrintable(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			makePrintable(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				makePrintable(v.Field(i))
			}
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			value := v.MapIndex(key)
			v.SetMapIndex(key, reflect.Value{})
			v.SetMapIndex(copied(key), copied(value))
		}
	default: // nothing else has texts
	}
}

// copied is a printable copy.
func copied(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	makePrintable(out)
	return out
}
