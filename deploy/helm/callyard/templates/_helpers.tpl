{{- define "callyard.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "callyard.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "callyard.labels" -}}
{{ include "callyard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "callyard.credentials" -}}
{{- .Values.credentials.existingSecret | default (include "callyard.name" .) -}}
{{- end -}}

{{/* What cannot work is said before anything is made. */}}
{{- define "callyard.check" -}}
{{- if not .Values.credentials.existingSecret -}}
{{- $_ := required "Name a Secret in credentials.existingSecret, or set credentials.key and credentials.secret." .Values.credentials.key -}}
{{- if lt (len .Values.credentials.secret) 32 -}}
{{- fail "credentials.secret must have at least 32 characters, e.g. of `openssl rand -hex 32`." -}}
{{- end -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.database.existingSecret) -}}
{{- fail "More than one replica needs one PostgreSQL for all: set database.existingSecret." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.host) -}}
{{- fail "An ingress needs a name to answer to: set host." -}}
{{- end -}}
{{- end -}}
